import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models

from headwater.api.text.chat_template_files import load_chat_templates
from headwater.engine.checkpoint.end_tokens import end_token_ids
from headwater.engine.checkpoint.errors import ModelError
from headwater.engine.checkpoint.tokenizer_config import with_tokenizer_config

USER = {"role": "user", "content": "x"}
GIVEN = {"chat_template": "given {{ eos_token }}", "eos_token": "<end>"}


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model with a template in every place where one may be."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = tmp_path / "model"
    (model / "additional_chat_templates").mkdir(parents=True)
    (model / "additional_chat_templates" / "tool_use.jinja").write_text("tools")
    (model / "chat_template.jinja").write_text("jinja")
    (model / "chat_template.json").write_text('{"chat_template": "json"}')
    (model / "tokenizer_config.json").write_text('{"chat_template": "own", "eos_token": "<old>"}')
    vocab = {"<old>": 0, "<end>": 1}
    Tokenizer(models.WordLevel(vocab, unk_token="<old>")).save(str(model / "tokenizer.json"))
    (model / "model.safetensors").write_bytes(b"weights")
    return model


def written(path: Path, config: object) -> Path:
    path.write_text(json.dumps(config))
    return path


def template_of(directory: Path, *, with_tools: bool = False) -> str:
    roles = load_chat_templates(directory).choose(with_tools=with_tools)
    assert roles is not None
    return roles.template.source


def test_its_template_and_its_end_token_are_used(model: Path, tmp_path: Path) -> None:
    directory = with_tokenizer_config(model, written(tmp_path / "given.json", GIVEN))
    assert template_of(directory) == template_of(directory, with_tools=True) == GIVEN["chat_template"]
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    assert (end_token_ids(model, tokenizer), end_token_ids(directory, tokenizer)) == ((0,), (1,))
    assert (directory / "model.safetensors").read_bytes() == b"weights"


def test_without_a_template_the_models_stays(model: Path, tmp_path: Path) -> None:
    directory = with_tokenizer_config(model, written(tmp_path / "given.json", {"eos_token": "<end>"}))
    assert template_of(directory) == "jinja"
    assert template_of(directory, with_tools=True) == "tools"


def test_it_is_made_once_and_anew_when_something_changes(model: Path, tmp_path: Path) -> None:
    given = written(tmp_path / "given.json", GIVEN)
    first = with_tokenizer_config(model, given)
    inode = first.stat().st_ino
    assert (with_tokenizer_config(model, given), first.stat().st_ino) == (first, inode)
    (model / "generation_config.json").write_text("{}")
    second = with_tokenizer_config(model, given)
    assert (second / "generation_config.json").read_text() == "{}"
    third = with_tokenizer_config(model, written(given, {"eos_token": "<old>"}))
    assert len({first, second, third}) == 3


@pytest.mark.parametrize(("text", "message"), [(None, "No such file"), ("[]", "this is no"), ("{", "this is no")])
def test_what_is_none_is_told(model: Path, tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "given.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ModelError, match=rf"given\.json: {message}"):
        with_tokenizer_config(model, path)


def test_a_cache_that_cannot_be_written_is_told(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ModelError, match="Set XDG_CACHE_HOME"):
        with_tokenizer_config(model, written(tmp_path / "given.json", GIVEN))
