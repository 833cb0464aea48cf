"""Documents that workers share: by name, for a time, within a bound."""

import os
import time
from pathlib import Path

import pytest

from headwater.api.resume import documents
from headwater.api.resume.documents import Documents

AGE_S = 60.0


def test_every_worker_finds_what_one_has_put(tmp_path: Path) -> None:
    one, other = (Documents(tmp_path / "shared", AGE_S) for _ in range(2))
    one.put("a", b"first")
    one.put("a", b"second")
    assert other.get("a") == b"second"
    assert (other.delete("a"), other.delete("a"), one.get("a")) == (True, False, None)


@pytest.mark.parametrize("name", ["", "../a", "a/b", "a.b", "a" * 97])
def test_what_is_no_name_names_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / "a").write_bytes(b"secret")
    kept = Documents(tmp_path / "shared", AGE_S)
    kept.put("x", b"1")
    assert (kept.get(name), kept.delete(name)) == (None, False)


def test_old_ones_go_and_so_do_the_oldest_of_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_BYTES", 30)
    monkeypatch.setattr(documents, "_TRIM_EVERY_S", 0.0)
    kept = Documents(tmp_path / "shared", AGE_S)
    for index, name in enumerate("abcd"):
        kept.put(name, b"x" * 10)
        os.utime(tmp_path / "shared" / name, times=(time.time(), time.time() - 40 + index))
    kept.put("e", b"x" * 10)
    assert [kept.get(name) is not None for name in "abcde"] == [False, False, True, True, True]
    os.utime(tmp_path / "shared" / "c", times=(time.time(), time.time() - AGE_S - 1))
    assert kept.get("c") is None
    kept.put("f", b"")
    assert not (tmp_path / "shared" / "c").exists()


def test_none_are_kept_without_an_age(tmp_path: Path) -> None:
    kept = Documents(tmp_path / "shared", 0)
    kept.put("a", b"x")
    assert kept.get("a") is None
    assert not (tmp_path / "shared").exists()


def test_a_full_disk_is_no_error_of_the_request(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    kept = Documents(tmp_path / "file" / "shared", AGE_S)  # where nothing can be made
    kept.put("a", b"x")
    assert kept.get("a") is None
