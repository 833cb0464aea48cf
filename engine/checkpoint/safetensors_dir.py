"""Weights of a Hugging Face directory: memory-mapped safetensors, one file or many, with an index or without."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from safetensors import SafetensorError, safe_open

from .errors import ModelError
from .json_files import read_json

if TYPE_CHECKING:
    import torch

    from ...kernels.block_weight import BlockSource

WEIGHTS_FILE = "model.gguf"  # in place of safetensors
SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
FLOAT_DTYPES = ("F64", "F32", "F16", "BF16")
INTEGER_DTYPES = ("I32", "I64")
BYTE_DTYPES = ("U8",)
EIGHT_BIT_DTYPES = ("I8", "F8_E4M3")
Spellings = Sequence[tuple[str, str]]  # of names: how they begin there, and here
DAMAGED = "The file is damaged or only half downloaded; get it again"


class Checkpoint:
    """The tensors of a model directory by name. Nothing is read from disk before it is asked for."""

    def __init__(self, model_dir: Path, shards: dict[str, Path], spellings: Spellings = ()) -> None:
        """Every file's header is read and checked. Raises ModelError.

        Args:
            model_dir: where the files are.
            shards: file of each tensor.
            spellings: how a tensor's name may begin in the files, and how it begins when it is asked for.
        """
        self.model_dir = model_dir
        self._stored = {_respelled(name, spellings): name for name in shards}
        self._shards = {name: shards[stored] for name, stored in self._stored.items()}
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
        return tuple(self._slice(name).get_shape())

    def is_eight_bit(self, name: str) -> bool:
        """Whether a tensor is stored as int8 or fp8 (e4m3). Raises ModelError if there is none of that name."""
        return self._slice(name).get_dtype() in EIGHT_BIT_DTYPES

    def get(self, name: str, expected_shape: Sequence[int]) -> "torch.Tensor":
        """The tensor in the dtype it is stored in, on the CPU, sharing the mapped memory: copy before writing.

        Raises ModelError if it is missing, of another shape than ``expected_shape``, or no float.
        """
        return self._read(name, expected_shape, FLOAT_DTYPES)

    def blocks(self, name: str, expected_shape: Sequence[int]) -> "BlockSource | None":  # noqa: ARG002
        """No weight of such a file is block-quantised."""
        return None

    def get_eight_bit(self, name: str, expected_shape: Sequence[int]) -> "torch.Tensor":
        """A tensor for which ``is_eight_bit`` holds, as it is stored; see ``get``."""
        return self._read(name, expected_shape, EIGHT_BIT_DTYPES)

    def get_integers(self, name: str, expected_shape: Sequence[int]) -> "torch.Tensor":
        """An int32 or int64 tensor, such as packed codes, as it is stored; see ``get``."""
        return self._read(name, expected_shape, INTEGER_DTYPES)

    def get_bytes(self, name: str, expected_shape: Sequence[int]) -> "torch.Tensor":
        """A uint8 tensor, such as codes of 4 bits, as it is stored; see ``get``."""
        return self._read(name, expected_shape, BYTE_DTYPES)

    def get_scales(self, name: str, expected_shape: tuple[int, int]) -> "torch.Tensor":
        """Scales of a quantised weight in that shape; dimensions of 1 may be missing in the file. Raises ModelError."""
        stored = self.shape(name)
        squeezed = [size for size in stored if size != 1] == [size for size in expected_shape if size != 1]
        return self.get(name, stored if squeezed else expected_shape).reshape(expected_shape)

    def _read(self, name: str, expected_shape: Sequence[int], dtypes: Sequence[str]) -> "torch.Tensor":
        stored = self._slice(name)
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
            return self._file(name).get_tensor(self._stored[name])
        except (SafetensorError, OSError, RuntimeError) as error:
            raise ModelError(f"{self._shards[name]}: tensor {name} cannot be read ({error}). {DAMAGED}.") from error

    def _slice(self, name: str) -> Any:
        return self._file(name).get_slice(self._stored[name])

    def _file(self, name: str) -> Any:
        path = self._shards.get(name)
        if path is None:
            raise ModelError(
                f"{self.model_dir}: tensor {name} is missing. The weights are incomplete or of another "
                "architecture than config.json says."
            )
        return self._files[path]


def open_checkpoint(model_dir: Path, spellings: Spellings = ()) -> Checkpoint:
    """Map the weights of a directory in Hugging Face format; see ``Checkpoint`` on spellings. Raises ModelError."""
    index = model_dir / INDEX_FILE
    if index.is_file():
        return Checkpoint(model_dir, _read_index(index), spellings)
    shards: dict[str, Path] = {}
    for path in find_weights(model_dir):
        for name in _open(path).keys():  # noqa: SIM118 - a safe_open has no other iterator
            if name in shards:
                raise ModelError(
                    f"{model_dir}: tensor {name} is in {shards[name].name} and in {path.name}, and there is no "
                    f"{INDEX_FILE} to say which counts. Leave one set of weights in the directory."
                )
            shards[name] = path
    return Checkpoint(model_dir, shards, spellings)


def _respelled(name: str, spellings: Spellings) -> str:
    return next((here + name.removeprefix(there) for there, here in spellings if name.startswith(there)), name)


def find_weights(model_dir: Path) -> list[Path]:
    """The files that hold the weights of a model without an index. Raises ModelError if there is none.

    model.safetensors alone, where it is; else all there are. Mistral's own name, consolidated, is often a second copy
    of the rest.
    """
    if (model_dir / SINGLE_FILE).is_file():
        return [model_dir / SINGLE_FILE]
    found = sorted(model_dir.glob("*.safetensors"))
    found = [path for path in found if not path.name.startswith("consolidated")] or found
    if not found:
        raise ModelError(no_weights_message(model_dir))
    return found


def tensor_names(path: Path) -> list[str]:
    """Of one safetensors file. Raises ModelError."""
    if not path.is_file():
        pickled = sorted(path.parent.glob("*.bin"))
        found = f"only pickled weights ({pickled[0].name}), which are not loaded" if pickled else "no such file"
        raise ModelError(f"{path}: {found}.")
    return list(_open(path).keys())


def shards_of(index: Path) -> set[str]:
    """Names of the files that an index lists. Raises ModelError."""
    return {path.name for path in _weight_map(index).values()}


def no_weights_message(model_dir: Path) -> str:
    """What to tell a user whose model directory has no safetensors."""
    pickled = sorted(model_dir.glob("*.bin")) + sorted(model_dir.glob("*.pt*"))
    if pickled:
        return (
            f"{model_dir}: only pickled weights ({pickled[0].name}). They are not loaded: convert them to safetensors."
        )
    return f"{model_dir}: there is no {SINGLE_FILE}, nor other .safetensors. Is this a model in Hugging Face format?"


class _Index(Struct):
    weight_map: dict[str, str]


def _weight_map(index: Path) -> dict[str, Path]:
    said = read_json(index, _Index)
    return {name: index.parent / file for name, file in said.weight_map.items()} if said else {}


def _read_index(index: Path) -> dict[str, Path]:
    shards = _weight_map(index)
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
