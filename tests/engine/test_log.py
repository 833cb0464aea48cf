import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from headwater.engine import log
from headwater.engine.checkpoint.conversion_cache import cached_conversion
from headwater.engine.log import configure_logging, logger

from .checkpoint.conftest import default_metadata, llama_tensors, write_gguf
from .forward import prompt_logits


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setattr(log, "PROGRESS_INTERVAL_S", 0.0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    yield
    logger.handlers, logger.propagate = [], True


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "tiny.gguf", llama_tensors(), default_metadata())


def test_converting_and_loading_tell_how_far_they_are(gguf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(False, "headwater")
    directory = cached_conversion(gguf)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "headwater: converting tiny.gguf: 100 %, 0 of 0 MB"
    assert f"headwater: converting {gguf}, once" in lines
    prompt_logits(directory, [1, 2])
    assert capsys.readouterr().out.splitlines() == [
        "headwater: loading weights: 50 %, 1 of 2 layers",
        "headwater: loading weights: 100 %, 2 of 2 layers",
    ]


def test_progress_is_json_where_logs_are(gguf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(True, "headwater")
    cached_conversion(gguf)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["level"] for line in lines} == {"INFO"}
    assert lines[-1]["message"] == "converting tiny.gguf: 100 %, 0 of 0 MB"


def test_what_takes_no_time_is_not_talked_about(
    gguf: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "PROGRESS_INTERVAL_S", 60.0)
    configure_logging(False, "headwater")
    prompt_logits(cached_conversion(gguf), [1, 2])
    assert capsys.readouterr().out == f"headwater: converting {gguf}, once\n"
