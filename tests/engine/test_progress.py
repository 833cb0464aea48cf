"""Work that takes long tells how far it is."""

from pathlib import Path

import pytest

from headwater.engine import log
from headwater.engine.checkpoint.conversion_cache import cached_conversion
from headwater.engine.checkpoint.convert import convert

from .checkpoint.conftest import default_metadata, llama_tensors, write_gguf
from .forward import prompt_logits


@pytest.fixture
def gguf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Path:
    monkeypatch.setattr(log, "PROGRESS_INTERVAL_S", 0.0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    caplog.set_level("INFO", "headwater")
    return write_gguf(tmp_path / "tiny.gguf", llama_tensors(), default_metadata())


def test_converting_and_loading_tell_how_far_they_are(gguf: Path, caplog: pytest.LogCaptureFixture) -> None:
    directory = cached_conversion(gguf)
    assert caplog.messages == ["reading tiny.gguf: 100 %, 0 of 0 MB", f"reading the tokenizer of {gguf}, once"]
    convert(gguf, gguf.with_name("converted"))
    assert caplog.messages[-1] == "converting tiny.gguf: 100 %, 0 of 0 MB"
    caplog.clear()
    prompt_logits(directory, [1, 2])
    assert caplog.messages == ["loading weights: 50 %, 1 of 2 layers", "loading weights: 100 %, 2 of 2 layers"]


def test_what_takes_no_time_is_not_talked_about(
    gguf: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "PROGRESS_INTERVAL_S", 60.0)
    prompt_logits(cached_conversion(gguf), [1, 2])
    assert caplog.messages == [f"reading the tokenizer of {gguf}, once"]
