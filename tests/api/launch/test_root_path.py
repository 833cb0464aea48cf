"""--root-path is a path, however it is written."""

import pytest
import typer

from headwater.api.launch.root_path import parse_root_path


@pytest.mark.parametrize(
    ("value", "path"), [("", ""), ("/", ""), ("llm", "/llm"), ("/llm/", "/llm"), ("/a/b-1", "/a/b-1")]
)
def test_slashes_stand_where_they_are_needed(value: str, path: str) -> None:
    assert parse_root_path(value) == path


@pytest.mark.parametrize("value", ["https://example.org/llm", "/a//b", "/a b", "/a?b", "/a#b", "/ä", "/a\r\nb"])
def test_what_is_no_path_is_refused(value: str) -> None:
    with pytest.raises(typer.BadParameter, match="is no path, such as /llm"):
        parse_root_path(value)
