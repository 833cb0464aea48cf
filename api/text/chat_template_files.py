"""Which chat templates a model directory holds: transformers' files, in its order, and the older processor's."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from .chat_roles import RoleSupport
from .chat_template import ChatTemplate


class ChatTemplates:
    """The templates of one model by name; most models have one, called ``default``.

    Attributes:
        tokenizer_config: what tokenizer_config.json and special_tokens_map.json say, each special token as its text.
    """

    def __init__(
        self, templates: Mapping[str, ChatTemplate], tokenizer_config: Mapping[str, Any] | None = None
    ) -> None:
        self.tokenizer_config = tokenizer_config or {}
        self._templates = {name: RoleSupport(template) for name, template in templates.items()}

    def choose(self, *, with_tools: bool) -> RoleSupport | None:
        """The one for a conversation with or without tools, None if the model has none."""
        if with_tools and "tool_use" in self._templates:
            return self._templates["tool_use"]
        return self._templates.get("default")


def load_chat_templates(model_dir: Path) -> ChatTemplates:
    """Compile what the directory has. Raises ValueError, which names the file, for one that is no template."""
    config = _read_json(model_dir / "tokenizer_config.json")
    known = _read_json(model_dir / "special_tokens_map.json") | config
    special_tokens = _special_tokens(known)
    templates: dict[str, ChatTemplate] = {}
    for name, (path, source) in _sources(model_dir, config).items():
        try:
            templates[name] = ChatTemplate(source, special_tokens)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    return ChatTemplates(templates, known | special_tokens)


def _sources(model_dir: Path, config: dict[str, Any]) -> dict[str, tuple[Path, str]]:
    """File and text of each template by name; template files hide what tokenizer_config.json says."""
    files = {path.stem: path for path in sorted(model_dir.glob("additional_chat_templates/*.jinja"))}
    main = model_dir / "chat_template.jinja"
    if main.is_file():
        files["default"] = main
    if files:
        return {name: (path, path.read_text("utf-8")) for name, path in files.items()}
    path = model_dir / "chat_template.json"
    found = _read_json(path).get("chat_template")
    if found is None:
        path = model_dir / "tokenizer_config.json"
        found = config.get("chat_template")
    if isinstance(found, str):
        return {"default": (path, found)}
    if not isinstance(found, list):
        return {}
    return {entry["name"]: (path, entry["template"]) for entry in found}


def _special_tokens(config: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, token in config.items():
        if name.endswith("_token"):
            text = token.get("content") if isinstance(token, dict) else token  # a dict: an AddedToken written out
            if isinstance(text, str):
                found[name] = text
    return found


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except FileNotFoundError:
        return {}
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {error}") from error
