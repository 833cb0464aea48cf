"""Pages on disk: what was written comes back whole, or not at all."""

import logging
import os
from pathlib import Path

import pytest

from headwater.engine.page_files import PageFiles

KIND, KEY, SIZE = b"k" * 16, b"1" * 16, 100
CONTENT = bytes(range(SIZE))


def read(files: PageFiles, key: bytes = KEY) -> bytes | None:
    content = bytearray(SIZE)
    return bytes(content) if files.read(key, memoryview(content)) else None


def write(files: PageFiles, key: bytes = KEY, content: bytes = CONTENT) -> bool:
    return files.write(key, memoryview(content))


def test_a_page_comes_back_in_another_process_and_for_its_kind_alone(tmp_path: Path) -> None:
    first, second, other = (PageFiles(tmp_path, kind, 10_000) for kind in (KIND, KIND, b"o" * 16))
    assert not second.has(KEY)
    assert read(second) is None
    assert write(first)
    assert second.has(KEY)
    assert read(second) == CONTENT
    assert read(other) is None
    assert write(second), "it is there"


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content + b"x",
        lambda _: b"",
        lambda content: content[:70] + b"?" + content[71:],
        lambda content: b"another program's" + content[17:],
        lambda content: content.replace(KEY, b"2" * 16),
    ],
)
def test_what_is_damaged_or_foreign_is_removed(tmp_path: Path, damage: object) -> None:
    files = PageFiles(tmp_path, KIND, 10_000)
    write(files)
    (file,) = tmp_path.rglob("*.page")
    file.write_bytes(damage(file.read_bytes()))  # type: ignore[operator]
    assert files.has(KEY)
    assert read(files) is None
    assert not files.has(KEY)
    assert write(files)
    assert read(files) == CONTENT


def test_what_was_used_last_is_kept_and_what_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    kept = [tmp_path / "letter.page", tmp_path / "letters" / "of mine.page"]
    kept[1].parent.mkdir()
    for path in kept:
        path.write_bytes(b"x" * 5000)
    files = PageFiles(tmp_path, KIND, 5 * (SIZE + 68) + 40)
    keys = [bytes([index]) * 16 for index in range(9)]
    for age, key in enumerate(keys[:5]):
        write(files, key)
        os.utime(tmp_path / KIND.hex() / f"{key.hex()}.page", (age, age))
    read(files, keys[0])
    write(files, keys[5])
    assert [files.has(key) for key in keys[:6]] == [True, False, False, True, True, True]
    assert all(path.exists() for path in kept)
    smaller = PageFiles(tmp_path, b"o" * 16, 2 * (SIZE + 68))  # another kind counts all
    assert [files.has(key) for key in keys[:6]].count(True) == 1
    assert not smaller.has(keys[0])


def test_a_disk_that_takes_nothing_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = PageFiles(tmp_path, KIND, 10_000)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, caplog.at_level(logging.ERROR):
        patched.setattr(Path, "replace", full)
        assert not write(files)
        assert not write(files)
    assert len(caplog.records) == 1
    assert "No space left on device" in caplog.text
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert write(files), "there is room again"


def test_what_a_killed_process_left_unfinished_goes(tmp_path: Path) -> None:
    PageFiles(tmp_path, KIND, 10_000)
    old, new = (tmp_path / KIND.hex() / f"{name}.unfinished" for name in ("old", "new"))
    for path in (old, new):
        path.touch()
    os.utime(old, (0, 0))
    PageFiles(tmp_path, KIND, 10_000)
    assert (old.exists(), new.exists()) == (False, True)
