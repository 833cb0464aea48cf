"""The tensors of a GGUF under Hugging Face's names: floats as they are, quantised ones as the file holds them."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

from ...kernels.block_weight import BlockWeight
from .errors import ModelError
from .gguf_blocks import READERS, block_weight
from .gguf_weights import StoredTensor, read_index, stored_rows
from .safetensors_dir import WEIGHTS_FILE

_FLOATS = {
    GGMLQuantizationType.F32: torch.float32,
    GGMLQuantizationType.F16: torch.float16,
    GGMLQuantizationType.BF16: torch.bfloat16,
}


class GgufCheckpoint:
    """What Checkpoint is for safetensors. The file is mapped: nothing is read before it is asked for."""

    def __init__(self, model_dir: Path) -> None:
        """``model_dir``: config.json, the file, and where its tensors are. Raises ModelError."""
        self._path = model_dir / WEIGHTS_FILE
        self._tensors = {tensor.name: tensor for tensor in read_index(model_dir)}
        try:
            self._bytes = np.memmap(self._path, np.uint8, mode="c")
        except (OSError, ValueError) as error:
            raise ModelError(f"{self._path.resolve()}: {error}.") from error
        for tensor in self._tensors.values():
            if tensor.offset + tensor.size > len(self._bytes):
                raise ModelError(f"{self._path.resolve()}: {tensor.source} is cut off. Download the file again.")

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor that is there."""
        return tuple(self._tensors[name].shape)

    def get(self, name: str, expected_shape: Sequence[int]) -> torch.Tensor:
        """The tensor as floats, dequantised if need be. Raises ModelError if it is missing or of another shape."""
        tensor = self._find(name, expected_shape)
        kind = GGMLQuantizationType(tensor.kind)
        rows = self._rows(tensor)
        order = tensor.order.rows(tensor.shape[0])
        if order is not None:
            rows = rows[order]
        if kind in _FLOATS:
            values = torch.from_numpy(np.ascontiguousarray(rows)).view(_FLOATS[kind])
        else:
            try:
                values = torch.from_numpy(dequantize(rows, kind).astype(np.float32, copy=False))
            except NotImplementedError as error:
                reason = f"{tensor.source} is stored as {kind.name}, which cannot be read"
                raise ModelError(f"{self._path.resolve()}: {reason}.") from error
        values = values.reshape(tensor.shape)
        return values.float() - tensor.norm_offset if tensor.norm_offset else values

    def blocks(self, name: str, expected_shape: Sequence[int]) -> "GgufBlocks | None":
        """The tensor as it is quantised, to be read some outputs at a time; None if it is stored as floats."""
        if name not in self._tensors:
            return None
        tensor = self._find(name, expected_shape)
        if GGMLQuantizationType(tensor.kind) not in READERS or len(tensor.shape) != 2:
            return None
        return GgufBlocks(self._rows(tensor), tensor)

    def _rows(self, tensor: StoredTensor) -> np.ndarray:
        """Stored bytes, [rows, bytes of a row]."""
        stored = self._bytes[tensor.offset : tensor.offset + tensor.size]
        return stored.reshape(*stored_rows(tensor.shape, GGMLQuantizationType(tensor.kind)), -1)

    def _find(self, name: str, expected_shape: Sequence[int]) -> StoredTensor:
        tensor = self._tensors.get(name)
        if tensor is None:
            raise ModelError(f"{self._path.resolve()}: there is no tensor for {name}.")
        if tensor.shape != tuple(expected_shape):
            raise ModelError(
                f"{self._path.resolve()}: tensor {tensor.source} has shape {list(tensor.shape)}, config.json asks for "
                f"{list(expected_shape)}."
            )
        return tensor


class GgufBlocks:
    """A quantised tensor of a GGUF: a BlockSource (kernels/block_weight.py)."""

    def __init__(self, rows: np.ndarray, tensor: StoredTensor) -> None:
        self._rows, self._kind = rows, GGMLQuantizationType(tensor.kind)
        order = tensor.order.rows(tensor.shape[0])
        self._order = None if order is None else torch.from_numpy(order)
        out, inner = tensor.shape
        self.shape = (out, inner)

    def take(self, rows: torch.Tensor | slice) -> BlockWeight:
        """Some of its outputs, by their numbers (int64) or a range."""
        if self._order is not None:
            rows = self._order[rows]
        taken = self._rows[rows.numpy() if isinstance(rows, torch.Tensor) else rows]
        weight = block_weight(taken, self._kind)
        assert weight is not None, "of a kind that is known"
        return weight
