"""Which chat templates a model directory holds: transformers' files, in its order, and the older processor's."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from ...engine.checkpoint.errors import ModelError
from ...engine.checkpoint.json_files import read_json
from .chat_roles import RoleSupport
from .chat_template import ChatTemplate, TemplateError
from .response_template import ResponseTemplate, read_response_template

# Files that hold templates beside other things, the first one that has any counts. transformers' processors read the
# first two, its tokenizers the last.
_JSON_FILES = ("processor_config.json", "chat_template.json", "tokenizer_config.json")


class ChatTemplates:
    """The templates of one model by name; most models have one, called ``default``.

    Attributes:
        broken: why a template cannot be used, by name.
        tokenizer_config: what tokenizer_config.json and special_tokens_map.json say, each special token as its text.
        response: how the model writes a message, if tokenizer_config.json says it in a way that is understood.
        response_fault: why it isn't, empty: it is, or there is nothing.
    """

    def __init__(
        self,
        templates: Mapping[str, ChatTemplate],
        broken: Mapping[str, str] | None = None,
        tokenizer_config: Mapping[str, Any] | None = None,
    ) -> None:
        self.tokenizer_config = tokenizer_config or {}
        self._templates = {name: RoleSupport(template) for name, template in templates.items()}
        self.broken = broken or {}
        self.response: ResponseTemplate | None = None
        self.response_fault = ""
        if (given := self.tokenizer_config.get("response_template")) is not None:
            try:
                self.response = read_response_template(given)
            except ValueError as error:
                self.response_fault = f"response_template: {error}"

    def choose(self, *, with_tools: bool) -> RoleSupport | None:
        """The one for a conversation with or without tools, None if the model has none.

        Raises TemplateError if it is broken.
        """
        name = "tool_use" if with_tools and "tool_use" in self._templates.keys() | self.broken.keys() else "default"
        if name in self.broken:
            raise TemplateError(self.broken[name])
        return self._templates.get(name)


def load_chat_templates(model_dir: Path) -> ChatTemplates:
    """Compile what the directory has. Raises ModelError, which names the file, for one that is no JSON."""
    known = _read(model_dir / "special_tokens_map.json") | _read(model_dir / "tokenizer_config.json")
    special_tokens = _special_tokens(known)
    templates: dict[str, ChatTemplate] = {}
    broken: dict[str, str] = {}
    for name, (path, source) in _sources(model_dir).items():
        try:
            if isinstance(source, bytes):
                source = source.decode("utf-8-sig")
            templates[name] = ChatTemplate(source, special_tokens)
        except ValueError as error:
            broken[name] = f"{path.name}: {error}"
    return ChatTemplates(templates, broken, known | special_tokens)


def _sources(model_dir: Path) -> dict[str, tuple[Path, str | bytes]]:
    """File and text of each template by name; template files hide what JSON files say. Raises ModelError."""
    files = {path.stem: path for path in sorted(model_dir.glob("additional_chat_templates/*.jinja"))}
    main = model_dir / "chat_template.jinja"
    if main.is_file():
        files["default"] = main
    if files:
        return {name: (path, _bytes(path)) for name, path in files.items()}
    for path in (model_dir / name for name in _JSON_FILES):
        found = _read(path).get("chat_template")
        if found is not None:
            return {name: (path, source) for name, source in _named(path, found).items()}
    return {}


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}.") from error


def _named(path: Path, found: object) -> dict[str, str]:
    """A text, a list of names and texts, or texts by name. Raises ModelError."""
    if isinstance(found, str):
        return {"default": found}
    try:
        if isinstance(found, list):
            return {each.name: each.template for each in msgspec.convert(found, list[_NamedTemplate])}
        return msgspec.convert(found, dict[str, str])
    except msgspec.ValidationError as error:
        raise ModelError(f"{path}: chat_template: {error}.") from error


class _NamedTemplate(Struct):
    name: str
    template: str


def _special_tokens(config: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, token in config.items():
        if name.endswith("_token"):
            text = token.get("content") if isinstance(token, dict) else token  # a dict: an AddedToken written out
            if isinstance(text, str):
                found[name] = text
    return found


def _read(path: Path) -> dict[str, Any]:
    return read_json(path, dict[str, Any]) or {}
