"""Weights of a Hugging Face directory: memory-mapped safetensors, one file or many with an index."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from .errors import ModelError

if TYPE_CHECKING:
    import torch

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
FLOAT_DTYPES = ("F64", "F32", "F16", "BF16")
EIGHT_BIT_DTYPES = ("I8", "F8_E4M3")
DAMAGED = "The file is damaged or only half downloaded; get it again"


class Checkpoint:
    """The tensors of a model directory by name. Nothing is read from disk before it is asked for."""

    def __init__(self, model_dir: Path, shards: dict[str, Path]) -> None:
        """``shards`` has the file of each tensor. Every file's header is read and checked. Raises ModelError."""
        self.model_dir = model_dir
        self._shards = shards
        self._files = {path: _open(path) for path in sorted(set(shards.values()))}
        present = {path: set(file.keys()) for path, file in self._files.items()}
        for name, path in shards.items():
            if name not in present[path]:
                raise ModelError(f"{path}: tensor {name}, which {INDEX_FILE} places here, is missing. {DAMAGED}.")

    def __contains__(self, name: str) -> bool:
        return name in self._shards

    def __iter__(self) -> Iterator[str]:
        return iter(self._shards)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor. Raises ModelError if there is none of that name."""
        return tuple(self._file(name).get_slice(name).get_shape())

    def is_eight_bit(self, name: str) -> bool:
        """Whether a tensor is stored as int8 or fp8 (e4m3). Raises ModelError if there is none of that name."""
        return self._file(name).get_slice(name).get_dtype() in EIGHT_BIT_DTYPES

    def get(self, name: str, expected_shape: Sequence[int]) -> "torch.Tensor":
        """The tensor in the dtype it is stored in, on the CPU, sharing the mapped memory: copy before writing.

        Raises ModelError if it is missing, of another shape than ``expected_shape``, or no float.
        """
        return self._read(name, expected_shape, FLOAT_DTYPES)

    def get_eight_bit(self, name: str, expected_shape: Sequence[int]) -> "torch.Tensor":
        """A tensor for which ``is_eight_bit`` holds, as it is stored; see ``get``."""
        return self._read(name, expected_shape, EIGHT_BIT_DTYPES)

    def get_scales(self, name: str, expected_shape: tuple[int, int]) -> "torch.Tensor":
        """Scales of a quantised weight in that shape; dimensions of 1 may be missing in the file. Raises ModelError."""
        stored = self.shape(name)
        squeezed = [size for size in stored if size != 1] == [size for size in expected_shape if size != 1]
        return self.get(name, stored if squeezed else expected_shape).reshape(expected_shape)

    def _read(self, name: str, expected_shape: Sequence[int], dtypes: Sequence[str]) -> "torch.Tensor":
        file = self._file(name)
        stored = file.get_slice(name)
        shape, dtype = tuple(stored.get_shape()), stored.get_dtype()
        if shape != tuple(expected_shape):
            raise ModelError(
                f"{self._shards[name]}: tensor {name} has shape {list(shape)}, config.json asks for "
                f"{list(expected_shape)}. Weights and config.json belong to different models."
            )
        if dtype not in dtypes:
            raise ModelError(
                f"{self._shards[name]}: tensor {name} is stored as {dtype}, which its config.json does not announce "
                f"({', '.join(dtypes)} can be read); choose another version of the model."
            )
        try:
            return file.get_tensor(name)
        except (SafetensorError, OSError, RuntimeError) as error:
            raise ModelError(f"{self._shards[name]}: tensor {name} cannot be read ({error}). {DAMAGED}.") from error

    def _file(self, name: str) -> Any:
        path = self._shards.get(name)
        if path is None:
            raise ModelError(
                f"{self.model_dir}: tensor {name} is missing. The weights are incomplete or of another "
                "architecture than config.json says."
            )
        return self._files[path]


def open_checkpoint(model_dir: Path) -> Checkpoint:
    """Map the weights of a directory in Hugging Face format. Raises ModelError."""
    index = model_dir / INDEX_FILE
    single = model_dir / SINGLE_FILE
    if index.is_file():
        return Checkpoint(model_dir, _read_index(index))
    if single.is_file():
        return Checkpoint(model_dir, dict.fromkeys(_open(single).keys(), single))
    raise ModelError(no_weights_message(model_dir))


def no_weights_message(model_dir: Path) -> str:
    """What to tell a user whose model directory has no safetensors."""
    pickled = sorted(model_dir.glob("*.bin")) + sorted(model_dir.glob("*.pt*"))
    if pickled:
        return (
            f"{model_dir}: only pickled weights ({pickled[0].name}). They are not loaded: convert them to safetensors."
        )
    return f"{model_dir}: neither {SINGLE_FILE} nor {INDEX_FILE} is there. Is this a model in Hugging Face format?"


def _read_index(index: Path) -> dict[str, Path]:
    try:
        weight_map = json.loads(index.read_bytes())["weight_map"]
        shards = {str(name): index.parent / file for name, file in weight_map.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index}: no weight map can be read from it ({error!r}). {DAMAGED}.") from error
    missing = sorted({path.name for path in shards.values() if not path.is_file()})
    if missing:
        raise ModelError(
            f"{index}: {len(missing)} of its files missing: {', '.join(missing[:5])}. Download the model completely."
        )
    return shards


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path}: no safetensors file can be read from it ({error}). {DAMAGED}.") from error
