"""What metadata of a GGUF says of a model's sizes, checked."""

import math

from .gguf_file import GgufFile
from .gguf_rope import shortest

PARTLY_ROTATED = ("phi3", "glm4", "phi2", "stablelm", "gptneox", "nemotron", "glm4moe", "minimax-m2")


def read_size(gguf: GgufFile, key: str, default: int | None = None) -> int:
    """A count of at least 1 under the architecture's name."""
    key = f"{gguf.architecture}.{key}"
    value = gguf.require(key, int) if default is None else gguf.get(key, default)
    if value < 1:
        raise gguf.error(f"{key} is {value}. The file is damaged: get or convert it again")
    return value


def read_number(gguf: GgufFile, key: str, default: float | None = None) -> float:
    """A number above 0 under the architecture's name, as its shortest decimal."""
    key = f"{gguf.architecture}.{key}"
    return shortest(gguf, key, gguf.require(key, float) if default is None else gguf.get(key, default))


def read_head_dim(gguf: GgufFile) -> int:
    name, heads, hidden = (
        gguf.architecture,
        read_size(gguf, "attention.head_count"),
        read_size(gguf, "embedding_length"),
    )
    if f"{name}.attention.key_length" not in gguf and hidden % heads:
        raise gguf.error(f"{name}.attention.head_count is {heads}, which does not divide {hidden}")
    head_dim = read_size(gguf, "attention.key_length", hidden // heads)
    if read_size(gguf, "attention.value_length", head_dim) != head_dim:
        raise gguf.error(f"{name}.attention.value_length is not its key_length, which is not known here")
    return head_dim


def read_rotated(gguf: GgufFile) -> int:
    """How many dims of a head the rotary embedding turns."""
    name, head_dim = gguf.architecture, read_head_dim(gguf)
    rotated = read_size(gguf, "rope.dimension_count", head_dim)
    if rotated != head_dim and name not in PARTLY_ROTATED:
        raise gguf.error(f"{name}.rope.dimension_count is not the head dimension; partial rotation is not known here")
    if rotated % 2 or rotated > head_dim:
        raise gguf.error(f"{name}.rope.dimension_count is {rotated}, which is odd or more than a head has")
    return rotated


def partial_rotary_factor(gguf: GgufFile) -> float:
    """The share of a head's dims that is rotated, from which its readers compute how many these are."""
    head_dim, rotated = read_head_dim(gguf), read_rotated(gguf)
    partial = rotated / head_dim
    return partial if int(head_dim * partial) == rotated else math.nextafter(partial, 1.0)
