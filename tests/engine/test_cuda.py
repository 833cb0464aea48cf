"""What is said where a GPU cannot be used as it is."""

import sysconfig
from pathlib import Path

import pytest
import torch

from headwater.engine import cuda
from headwater.engine.checkpoint.errors import ModelError
from headwater.engine.cuda import advice, check_compiler, errors_as_advice, unseen_gpu


def test_a_gpu_that_torch_cannot_use_is_named_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_DEVICE_FILES", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (tmp_path / "nvidiactl").touch()
    assert unseen_gpu() is None  # of a driver without a card
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "a build without CUDA" in (unseen_gpu() or "")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert "needs a driver for CUDA 13.0" in (unseen_gpu() or "")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert unseen_gpu() is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert unseen_gpu() is None


def test_a_missing_compiler_and_missing_headers_are_named_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gcc").touch(0o755)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sysconfig, "get_paths", lambda **_: {"include": str(tmp_path)})
    with pytest.raises(ModelError, match="-dev"):
        check_compiler()
    (tmp_path / "Python.h").touch()
    check_compiler()
    (tmp_path / "gcc").unlink()
    with pytest.raises(ModelError, match="apt install gcc"):
        check_compiler()


def test_errors_of_the_device_are_advice_and_others_stay_what_they_are() -> None:
    class OutOfResources(Exception):
        """Named as Triton's, which has several over its versions."""

    full = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total of ...")
    assert "Tried to allocate 2.00 GiB" in (advice(full) or "")
    assert "--dtype" in (advice(OutOfResources("shared memory")) or "")
    with pytest.raises(ModelError, match="a model: the GPU's memory is full"), errors_as_advice("a model"):
        raise full
    with pytest.raises(ZeroDivisionError), errors_as_advice("a model"):
        raise ZeroDivisionError
