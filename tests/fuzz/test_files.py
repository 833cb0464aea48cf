"""Model files with changed, missing and repeated bytes: read, or refused by a ModelError, never a crash."""

import json
import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from headwater.engine.checkpoint.errors import ModelError
from headwater.engine.checkpoint.gguf_config import model_config
from headwater.engine.checkpoint.gguf_file import GgufFile
from headwater.engine.checkpoint.gguf_tokenizer import build_tokenizer
from headwater.engine.checkpoint.safetensors_dir import open_checkpoint

from ..engine.checkpoint.conftest import default_metadata, llama_tensors, write_gguf

SETTINGS = settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
INTEGERS = st.sampled_from([0, 1, 7, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1])


@st.composite
def damages(draw: st.DrawFn) -> list[tuple[str, int, bytes]]:
    """Kind, place (taken modulo the length), bytes."""
    return draw(
        st.lists(
            st.tuples(
                st.sampled_from(["write", "cut", "insert"]),
                st.integers(0, 1 << 20),
                st.binary(min_size=1, max_size=8) | INTEGERS.map(lambda number: struct.pack("<Q", number)),
            ),
            min_size=1,
            max_size=3,
        )
    )


def damaged(data: bytes, header_bytes: int, damage: list[tuple[str, int, bytes]]) -> bytes:
    for kind, place, new in damage:
        at = place % header_bytes
        match kind:
            case "write":
                data = data[:at] + new + data[at + len(new) :]
            case "cut":
                data = data[:at]
            case "insert":
                data = data[:at] + new + data[at:]
    return data


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", llama_tensors(), default_metadata())
    return path.read_bytes()


def read_gguf(path: Path) -> None:
    file = GgufFile(path)
    model_config(file)
    build_tokenizer(file)
    for name in file.tensors:
        file.shape(name)
        file.rows(name)


@SETTINGS
@given(damage=damages())
def test_a_damaged_gguf_is_read_or_refused(
    gguf: bytes, tmp_path_factory: pytest.TempPathFactory, damage: list[tuple[str, int, bytes]]
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "x.gguf"
    path.write_bytes(damaged(gguf, 4000, damage))
    with suppress(ModelError):
        read_gguf(path)
    path.unlink()


@pytest.mark.parametrize("length", [1 << 40, (1 << 64) - 1])
def test_an_array_longer_than_the_file_is_refused(gguf: bytes, tmp_path: Path, length: int) -> None:
    key = b"tokenizer.ggml.token_type"
    at = gguf.index(key) + len(key) + 8  # behind the types of the value and of its members
    path = tmp_path / "x.gguf"
    path.write_bytes(gguf[:at] + length.to_bytes(8, "little") + gguf[at + 8 :])
    with pytest.raises(ModelError, match="cut short or damaged"):
        read_gguf(path)


def test_arrays_in_arrays_without_end_are_refused(gguf: bytes, tmp_path: Path) -> None:
    key = b"tokenizer.ggml.token_type"
    at = gguf.index(key) + len(key) + 4
    nested = ((9).to_bytes(4, "little") + (1).to_bytes(8, "little")) * 4000
    path = tmp_path / "x.gguf"
    path.write_bytes(gguf[:at] + nested + gguf[at:])
    with pytest.raises(ModelError, match="cut short or damaged"):
        read_gguf(path)


def test_a_text_that_is_not_utf8_is_refused(gguf: bytes, tmp_path: Path) -> None:
    """Found by the test above."""
    path = tmp_path / "x.gguf"
    path.write_bytes(gguf.replace(b"smollm", b"\x80mollm"))
    with pytest.raises(ModelError, match=r"tokenizer.ggml.pre is not UTF-8"):
        read_gguf(path)


@pytest.fixture(scope="module")
def safetensors(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("safetensors") / "model.safetensors"
    save_file({f"layer.{number}": np.ones((2, 3), np.float32) for number in range(6)}, path)
    return path.read_bytes()


def read_safetensors(directory: Path) -> None:
    checkpoint = open_checkpoint(directory)
    for name in checkpoint:
        checkpoint.get(name, checkpoint.shape(name))


@SETTINGS
@given(damage=damages())
def test_a_damaged_safetensors_file_is_read_or_refused(
    safetensors: bytes, tmp_path_factory: pytest.TempPathFactory, damage: list[tuple[str, int, bytes]]
) -> None:
    directory = tmp_path_factory.mktemp("damaged")
    file = directory / "model.safetensors"
    file.write_bytes(damaged(safetensors, 600, damage))
    with suppress(ModelError):
        read_safetensors(directory)
    file.unlink()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@SETTINGS
@given(header=JSON | st.dictionaries(st.text(max_size=3), st.fixed_dictionaries(
    {"dtype": st.sampled_from(["F32", "I64", "X"]), "shape": st.lists(st.integers(-1, 2**40), max_size=3),
     "data_offsets": st.lists(st.integers(-1, 2**40), max_size=3)}), max_size=2))  # fmt: skip
def test_a_strange_safetensors_header_is_refused(tmp_path_factory: pytest.TempPathFactory, header: object) -> None:
    directory = tmp_path_factory.mktemp("strange")
    text = json.dumps(header).encode()
    (directory / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    with suppress(ModelError):
        read_safetensors(directory)
