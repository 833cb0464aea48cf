"""--lora-adapters: names, directories and ids, and what is told to who mistypes one."""

from pathlib import Path

import pytest

from headwater.api.launch.adapters import resolve_adapters
from headwater.api.launch.addresses import StartError
from headwater.engine.checkpoint.errors import ModelError
from headwater.engine.messages import Adapter


def test_directories_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a=b").mkdir()
    (tmp_path / "c").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve_adapters("", "model") == ()
    assert resolve_adapters(f"x={tmp_path}/a=b, c,", "model") == (
        Adapter("x", f"{tmp_path}/a=b"),
        Adapter("c", f"{tmp_path}/c"),
    )


@pytest.mark.parametrize(
    ("listed", "kind", "words"),
    [
        ("x=/none/there", ModelError, "adapter /none/there: no such directory, and no Hub id"),
        ("x=", StartError, "'x=' is neither a name=directory nor an id"),
        ("=/tmp", StartError, "'=/tmp' is neither"),
        ("x=/tmp,x=/", StartError, "'x' is given twice"),
        ("model=/tmp", StartError, "'model' is what requests call the model itself"),
        ("owner/name@v1", ModelError, "owner/name at v1: "),
    ],
)
def test_what_cannot_be_meant(listed: str, kind: type[Exception], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(kind) as raised:
        resolve_adapters(listed, "model")
    assert words in str(raised.value)
