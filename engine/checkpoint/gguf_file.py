"""A GGUF file as typed metadata and named tensors, with errors that a user can act on.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType
from gguf.constants import GGML_QUANT_SIZES
from gguf.gguf_reader import ReaderTensor
from numpy.typing import NDArray

from .errors import ModelError

# Arrays of the metadata that are weights: xIELU's, of each layer.
LEARNED_ACTIVATION = ("xielu.alpha_p", "xielu.alpha_n")

T = TypeVar("T", int, float, str, bool)


class _Reader(GGUFReader):
    """GGUFReader goes on reading nothing behind the end of a file: an array of a damaged length would take years."""

    def _get(
        self, offset: int, dtype: npt.DTypeLike, count: int = 1, override_order: Literal["I", "S", "<"] | None = None
    ) -> NDArray[Any]:
        if offset + np.dtype(dtype).itemsize * int(count) > len(self.data):
            raise ValueError(f"{int(count)} values at byte {offset} would lie behind its end")
        return super()._get(offset, dtype, count, override_order)


def _tensors_of_metadata(reader: GGUFReader) -> dict[str, ReaderTensor]:
    tensors = {}
    for key in LEARNED_ACTIVATION:
        field = reader.fields.get(key)
        if field is not None and field.types == [GGUFValueType.ARRAY, GGUFValueType.FLOAT32] and field.data:
            count, first = len(field.data), field.parts[field.data[0]]
            offset, shape = first.ctypes.data - reader.data.ctypes.data, np.array([count], np.uint32)
            values = reader.data[offset : offset + 4 * count].view(np.float32)
            kind = GGMLQuantizationType.F32
            tensors[key] = ReaderTensor(key, kind, shape, count, 4 * count, offset, values, field)
    return tensors


class GgufFile:
    """Metadata by key, tensors by name. Tensor data stays on disk until used."""

    def __init__(self, path: Path) -> None:
        """Raises ModelError if the file is missing, cut short or no GGUF."""
        self.path = path
        if not path.is_file():
            raise ModelError(f"{path}: no such file.")
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise ModelError(f"{path}: this is not a GGUF file (it does not start with 'GGUF').")
        try:
            reader = _Reader(path)
        except (ValueError, IndexError, KeyError, OverflowError, MemoryError, RecursionError) as error:
            raise self.error(f"the file is cut short or damaged ({error}). Download it again") from error
        self._fields = reader.fields
        self.tensors = {tensor.name: tensor for tensor in reader.tensors} | _tensors_of_metadata(reader)

    def error(self, reason: str) -> ModelError:
        """A ModelError about this file."""
        return ModelError(f"{self.path}: {reason}.")

    @property
    def architecture(self) -> str:
        """As llama.cpp names it, which starts the names of its metadata. Raises ModelError if there is none."""
        return self.require("general.architecture", str)

    @cached_property
    def tokens(self) -> list[str]:
        """The vocabulary, as the file spells it; empty if there is none."""
        return self.array("tokenizer.ggml.tokens", str)

    def __contains__(self, key: str) -> bool:
        return key in self._fields

    def get(self, key: str, default: T) -> T:
        """The value of a key, of the default's type, or the default. Raises ModelError if it has another type."""
        if key not in self._fields:
            return default
        value = self._contents(key)
        if isinstance(default, float) and isinstance(value, int):
            value = float(value)
        if type(value) is not type(default):
            raise self.error(f"{key} is {value!r}, expected a value of type {type(default).__name__}")
        return value

    def require(self, key: str, kind: type[T]) -> T:
        """The value of a key that must be there. Raises ModelError."""
        if key not in self._fields:
            raise self.error(f"the metadata has no {key}. The file is incomplete: get or convert it again")
        return self.get(key, kind())

    def array(self, key: str, kind: type[T]) -> list[T]:
        """The values of an array; empty if there is none. Raises ModelError if one has another type."""
        if key not in self._fields:
            return []
        values = self._contents(key)
        if not isinstance(values, list):
            raise self.error(f"{key} is not an array")
        if kind is float and all(type(value) is int for value in values):
            values = [float(value) for value in values]
        if not all(type(value) is kind for value in values):
            raise self.error(f"{key} has a value that is not of type {kind.__name__}")
        return values

    def _contents(self, key: str) -> Any:
        try:
            return self._fields[key].contents()
        except UnicodeDecodeError as error:
            raise self.error(f"{key} is not UTF-8 ({error})") from error

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, outermost dimension first (GGUF stores it the other way round)."""
        return tuple(int(size) for size in reversed(self.tensors[name].shape))

    def rows(self, name: str) -> tuple[np.ndarray, GGMLQuantizationType]:
        """The stored bytes of a tensor, [rows, bytes of a row], and how they are quantised."""
        tensor = self.tensors[name]
        block_values, block_bytes = GGML_QUANT_SIZES[tensor.tensor_type]
        row_bytes = int(tensor.shape[0]) // block_values * block_bytes
        return np.ascontiguousarray(tensor.data).view(np.uint8).reshape(-1, row_bytes), tensor.tensor_type
