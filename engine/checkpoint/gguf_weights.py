"""Tensors of a GGUF -> model.safetensors in bf16, under Hugging Face's names.

Needs no torch: safetensors is a JSON header with offsets, then the raw bytes. Rows are dequantised in blocks, so that
memory stays small whatever the size of the model.
"""

import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
from gguf import GGMLQuantizationType
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize
from msgspec import Struct

from ..log import Progress
from .errors import ModelError
from .gguf_file import GgufFile
from .gguf_plan import RowOrder, TensorPlan

INDEX_FILE = "gguf_tensors.json"
# Elements dequantised at a time: 32 MiB as fp32, small beside any model and large beside a call's cost.
BLOCK_ELEMENTS = 8 << 20


def write_safetensors(gguf: GgufFile, plan: list[TensorPlan], path: Path) -> None:
    """Dequantise the planned tensors, round them to bf16, if need be, and write them. Raises ModelError."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in plan:
        end = offset + (4 if tensor.exact else 2) * math.prod(tensor.shape)
        shape = tensor.shape[::-1] if tensor.transposed else tensor.shape
        header[tensor.name] = {
            "dtype": "F32" if tensor.exact else "BF16",
            "shape": shape,
            "data_offsets": (offset, end),
        }
        offset = end
    text = json.dumps(header).encode()
    progress = Progress(f"converting {gguf.path.name}", offset, "MB", scale=1e6)
    text += b" " * (-len(text) % 8)  # the data starts aligned
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in plan:
            for values in _values(gguf, tensor):
                values = values - tensor.offset if tensor.offset else values
                progress.add(file.write((values if tensor.exact else to_bf16(values)).tobytes()))


def _values(gguf: GgufFile, tensor: TensorPlan) -> Iterator[np.ndarray]:
    """A tensor as fp32, some rows at a time. Raises ModelError."""
    rows, kind = gguf.rows(tensor.source)
    start, size = tensor.place(rows.size)
    rows = rows.reshape(-1)[start : start + size].reshape(*stored_rows(tensor.shape, kind), -1)
    order = tensor.order.rows(tensor.shape[0])
    if order is not None:
        rows = rows[order]
    # Nothing of a transposed one can be written before all of it is read.
    step = len(rows) if tensor.transposed else max(1, BLOCK_ELEMENTS // tensor.shape[-1])
    for first in range(0, len(rows), step):
        try:
            values = dequantize(rows[first : first + step], kind)
        except NotImplementedError as error:
            raise gguf.error(f"{tensor.source} is stored as {kind.name}, which cannot be read") from error
        values = values.astype(np.float32, copy=False)
        yield values.T if tensor.transposed else values


def stored_rows(shape: tuple[int, ...], kind: GGMLQuantizationType) -> tuple[int]:
    """In how many rows of bytes a tensor lies: a vector of floats in one a value, so that they can be ordered."""
    one_each = len(shape) > 1 or GGML_QUANT_SIZES[kind][0] == 1
    return (shape[0] if one_each else 1,)


class StoredTensor(Struct, frozen=True):
    """One tensor that stays in the GGUF: where it is, and what it is called here."""

    name: str
    source: str  # its name in the GGUF
    kind: int  # GGMLQuantizationType
    shape: tuple[int, ...]
    offset: int  # bytes from the beginning of the file
    size: int  # bytes
    order: RowOrder
    norm_offset: float


def write_index(gguf: GgufFile, plan: list[TensorPlan], directory: Path) -> None:
    """Note where the planned tensors are: reading a GGUF's header takes seconds, most of them for its vocabulary."""
    stored = []
    for tensor in plan:
        found = gguf.tensors[tensor.source]
        start, size = tensor.place(int(found.n_bytes))
        start += int(found.data_offset)
        kind = int(found.tensor_type)
        stored.append(
            StoredTensor(tensor.name, tensor.source, kind, tensor.shape, start, size, tensor.order, tensor.offset)
        )
    (directory / INDEX_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(stored)) + b"\n")


def read_index(directory: Path) -> list[StoredTensor]:
    """What ``write_index`` wrote. Raises ModelError."""
    path = directory / INDEX_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[StoredTensor])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: {error}. Serve the .gguf file itself.") from error


def to_bf16(values: np.ndarray) -> np.ndarray:
    """fp32 -> the bits of bf16 as uint16, rounded to nearest even; a NaN stays a NaN."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1)).astype(np.uint32)) >> 16
    # Rounding could carry a NaN's mantissa into the sign, so NaNs are cut and made quiet instead.
    return np.where(np.isnan(values), (bits >> 16) | 0x40, rounded).astype(np.uint16)
