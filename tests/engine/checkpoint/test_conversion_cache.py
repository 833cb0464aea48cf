import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from headwater.engine.checkpoint.conversion_cache import cache_dir, cached_conversion, conversions, remove
from headwater.engine.checkpoint.errors import ModelError
from headwater.engine.checkpoint.tokenizer_config import with_tokenizer_config

from .conftest import HIDDEN, LAYERS, WriteGguf, llama_tensors

WIDE = 100_000  # of an MLP: 77 MB of bf16


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "headwater"


def directories(cache: Path) -> list[Path]:
    return [entry for entry in cache.iterdir() if entry.is_dir()]


def test_a_file_is_converted_once(tiny_gguf: WriteGguf, cache: Path) -> None:
    path = tiny_gguf()
    first = cached_conversion(path)
    assert (first / "model.gguf").resolve() == path  # whose weights stay where they are
    written = (first / "tokenizer.json").stat()
    assert cached_conversion(path) == first
    again = (first / "tokenizer.json").stat()
    assert (again.st_ino, again.st_mtime_ns) == (written.st_ino, written.st_mtime_ns)
    assert directories(cache) == [first]


def test_a_conversion_with_another_tokenizer_config_is_not_taken_for_it(tiny_gguf: WriteGguf, tmp_path: Path) -> None:
    path = tiny_gguf()
    directory = cached_conversion(path)
    for number in range(4):  # the order of directories is not known
        (tmp_path / "given.json").write_text(f'{{"chat_template": "given {number}"}}')
        assert with_tokenizer_config(directory, tmp_path / "given.json") != directory
    assert cached_conversion(path) == directory


def test_a_changed_file_is_converted_anew(tiny_gguf: WriteGguf) -> None:
    first = cached_conversion(tiny_gguf())
    second = cached_conversion(tiny_gguf({"llama.context_length": 128}))
    assert first != second
    assert '"max_position_embeddings": 128' in (second / "config.json").read_text()


def test_several_at_once_convert_once(tiny_gguf: WriteGguf, cache: Path) -> None:
    path = tiny_gguf()
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lambda _: cached_conversion(path), range(4)))
    assert len(found) == 1
    assert directories(cache) == list(found)


def test_several_at_once_take_a_copy_of_the_file(tiny_gguf: WriteGguf, tmp_path: Path) -> None:
    """Each of them lets the conversion's weights be its own file's."""
    first = cached_conversion(tiny_gguf())
    copies = [Path(shutil.copyfile(tiny_gguf(), tmp_path / f"copy-{i}.gguf")) for i in range(8)]
    with ThreadPoolExecutor(len(copies)) as pool:
        for _ in range(20):
            assert set(pool.map(cached_conversion, copies)) == {first}
    assert (first / "model.gguf").resolve() in copies
    assert not [entry for entry in first.iterdir() if entry.name.startswith(".")]


def test_what_a_killed_conversion_left_is_removed(tiny_gguf: WriteGguf, cache: Path) -> None:
    path = tiny_gguf()
    directory = cached_conversion(path)
    shutil.move(directory, cache / f".{directory.name}.killed")
    assert cached_conversion(path) == directory
    assert directories(cache) == [directory]


def test_a_failed_conversion_leaves_nothing(tiny_gguf: WriteGguf, cache: Path) -> None:
    path = tiny_gguf({"tokenizer.ggml.pre": "gibberish"})
    with pytest.raises(ModelError, match="gibberish"):
        cached_conversion(path)
    assert list(cache.iterdir()) == []


def test_a_conversion_that_is_ended_leaves_nothing(tiny_gguf: WriteGguf, cache: Path) -> None:
    path = tiny_gguf({"llama.feed_forward_length": WIDE}, wide_tensors())
    command = [Path(sys.executable).with_name("headwater"), "convert", path, cache / "converted"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not list(cache.glob(".*/model.safetensors")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.terminate()
    assert process.wait(120) == 128 + signal.SIGTERM
    assert list(cache.iterdir()) == []


def wide_tensors() -> dict[str, np.ndarray]:
    """Long enough to convert that the conversion can be ended meanwhile."""
    shapes = {"gate": (WIDE, HIDDEN), "up": (WIDE, HIDDEN), "down": (HIDDEN, WIDE)}
    wide = {f"model.layers.{i}.mlp.{name}_proj.weight": shape for i in range(LAYERS) for name, shape in shapes.items()}
    return llama_tensors() | {name: np.ones(shape, np.float32) for name, shape in wide.items()}


def test_a_copy_of_a_file_is_not_converted_again(tiny_gguf: WriteGguf, tmp_path: Path, cache: Path) -> None:
    path = tiny_gguf()
    first = cached_conversion(path)
    copy = Path(shutil.copyfile(path, tmp_path / "copy.gguf"))  # another inode, other times
    assert cached_conversion(copy) == first
    assert (first / "model.gguf").resolve() == copy  # the other one may change, or go
    assert list(cache.iterdir()) == [first]
    assert [each.sources for each in conversions()] == [(str(path), str(copy))]


def test_a_file_that_was_read_once_is_known_without_reading_it(
    tiny_gguf: WriteGguf, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_gguf()
    first = cached_conversion(path)
    monkeypatch.setattr("headwater.engine.checkpoint.conversion_cache._key", lambda path: pytest.fail(f"read {path}"))
    assert cached_conversion(path) == first


def test_content_counts_even_if_size_and_times_are_kept(tiny_gguf: WriteGguf) -> None:
    path = tiny_gguf()
    first, stat = cached_conversion(path), path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # of the last tensor
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert cached_conversion(path) != first


def test_what_has_lost_its_files_is_unused(tiny_gguf: WriteGguf, cache: Path) -> None:
    path = tiny_gguf()
    kept = cached_conversion(path)
    (cache / "tiny-0123456789abcdef").mkdir()  # as versions before named them
    (cache / ".gguf-0.killed").mkdir()
    assert {each.path.name: each.used for each in conversions()} == {
        kept.name: True, "tiny-0123456789abcdef": False, ".gguf-0.killed": False
    }  # fmt: skip
    path.unlink()
    assert not any(each.used for each in conversions())


def test_a_removed_conversion_is_made_again(tiny_gguf: WriteGguf, cache: Path) -> None:
    path = tiny_gguf()
    directory = cached_conversion(path)
    remove(conversions()[0])
    assert list(cache.iterdir()) == []
    assert cached_conversion(path) == directory


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none\.gguf: No such file"):
        cached_conversion(tmp_path / "none.gguf")


def test_a_cache_that_cannot_be_made_is_named(
    tiny_gguf: WriteGguf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ModelError, match="Set XDG_CACHE_HOME"):
        cached_conversion(tiny_gguf())


@pytest.mark.parametrize("value", ["", "relative"])
def test_a_relative_cache_home_is_ignored(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    assert cache_dir() == Path(os.path.expanduser("~/.cache/headwater"))
