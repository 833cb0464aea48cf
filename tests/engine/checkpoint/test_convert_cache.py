import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from headwater.engine.checkpoint.convert import cache_dir, cached_conversion
from headwater.engine.checkpoint.errors import ModelError

from .conftest import WriteGguf


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "headwater"


def directories(cache: Path) -> list[Path]:
    return [entry for entry in cache.iterdir() if entry.is_dir()]


def test_a_file_is_converted_once(tiny_gguf: WriteGguf, cache: Path) -> None:
    path = tiny_gguf()
    first = cached_conversion(path)
    written = (first / "model.safetensors").stat()
    assert cached_conversion(path) == first
    again = (first / "model.safetensors").stat()
    assert (again.st_ino, again.st_mtime_ns) == (written.st_ino, written.st_mtime_ns)
    assert directories(cache) == [first]


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


def test_what_a_killed_conversion_left_is_removed(tiny_gguf: WriteGguf, cache: Path) -> None:
    path = tiny_gguf()
    directory = cached_conversion(path)
    shutil.move(directory, cache / f".{directory.name}.killed")
    assert cached_conversion(path) == directory
    assert directories(cache) == [directory]


def test_a_failed_conversion_leaves_no_directory(tiny_gguf: WriteGguf, cache: Path) -> None:
    path = tiny_gguf({"tokenizer.ggml.pre": "gibberish"})
    with pytest.raises(ModelError, match="gibberish"):
        cached_conversion(path)
    assert directories(cache) == []


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
