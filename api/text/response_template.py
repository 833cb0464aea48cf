"""A checkpoint's own description of how its model writes a message: ``response_template`` in tokenizer_config.json.

It is transformers' chat response parsing, version 1: a message's fields are regions of the text, each between an
opening and a closing, which are texts or regular expressions. One field may have no opening: it has what is in no other
region. ``start_anchor`` says where in the prompt the message begins, since a template may write its first words.

    {"start_anchor": "<|im_start|>assistant\\n",
     "fields": {"reasoning_content": {"open": "<think>", "close": "</think>"},
                "tool_calls": {"open": "<tool_call>", "close": "</tool_call>", "repeats": true, "content": "json",
                               "transform": {"type": "function", "function": "{content}"}},
                "content": {"close": "<|im_end|>"}}}
"""

from typing import Any

import msgspec
import regex
from msgspec import Struct

from .response_values import PARSERS, check_transform

THOUGHTS = ("reasoning_content", "reasoning", "thinking")  # what the field is called that has them


class Anchor(Struct, frozen=True):
    """What begins or ends a region.

    Attributes:
        grows: what matches may become longer with more text.
    """

    pattern: regex.Pattern[str]
    grows: bool


class Field(Struct, frozen=True):
    """A field of a message.

    Attributes:
        content: how its text is read, one of PARSERS; content_args: more about that.
        join: stands between its regions.
        transform: what is made of the value, with ``{content}`` and the names of the opening's groups in it.
        transform_each: it is for each entry of a list.
    """

    name: str
    open: Anchor | None
    close: Anchor | None
    content: str
    content_args: dict[str, Any]
    join: str
    transform: Any
    transform_each: bool


class ResponseTemplate(Struct, frozen=True):
    """All of it.

    Attributes:
        fields: at most one has no opening; it has what is in no other region.
        start: what a message begins behind.
    """

    fields: tuple[Field, ...]
    start: Anchor

    @property
    def has_thoughts(self) -> bool:
        """A message may have thoughts in it."""
        return any(field.name in THOUGHTS for field in self.fields)

    def message_in(self, prompt: str) -> str:
        """What a prompt has of the message that is to be generated; all of it, if there is no sign of a beginning."""
        end = max((match.end() for match in self.start.pattern.finditer(prompt)), default=0)
        return prompt[end:]


class _FieldSpec(Struct, forbid_unknown_fields=True):
    open: str | list[str] | None = None
    open_pattern: str | None = None
    close: str | list[str] | None = None
    close_pattern: str | None = None
    content: str = "text"
    content_args: dict[str, Any] = {}
    repeats: bool = False
    join: str | None = None
    optional: bool = True
    transform: Any = None
    transform_each: bool = False


class _Spec(Struct, forbid_unknown_fields=True):
    fields: dict[str, _FieldSpec]
    version: int = 1
    defaults: dict[str, Any] = {}
    start_anchor: str | list[str] | None = None
    start_anchor_pattern: str | None = None


def read_response_template(given: object) -> ResponseTemplate:
    """Check and compile it. Raises ValueError, which says what is wrong."""
    try:
        spec = msgspec.convert(given, _Spec)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None
    if spec.version != 1:
        raise ValueError(f"version {spec.version} is not known")
    fields = tuple(_field(name, field) for name, field in spec.fields.items())
    if not fields:
        raise ValueError("it has no fields")
    if sum(field.open is None for field in fields) > 1:
        raise ValueError("only one field may have no opening")
    start = _anchor("start_anchor", spec.start_anchor, spec.start_anchor_pattern)
    if start is None:
        raise ValueError("`start_anchor` is missing")
    return ResponseTemplate(fields, start)


def _field(name: str, spec: _FieldSpec) -> Field:
    opening = _anchor(f"{name}: open", spec.open, spec.open_pattern)
    closing = _anchor(f"{name}: close", spec.close, spec.close_pattern)
    if spec.content not in PARSERS:
        raise ValueError(f"{name}: content {spec.content!r} is none of {', '.join(PARSERS)}")
    if spec.join is not None and not spec.repeats:
        raise ValueError(f"{name}: `join` needs `repeats`")
    if spec.transform is None and spec.transform_each:
        raise ValueError(f"{name}: `transform_each` needs a `transform`")
    check_transform(name, spec.transform)
    return Field(name, opening, closing, spec.content, spec.content_args, spec.join or "", spec.transform,
                 spec.transform_each)  # fmt: skip


def _anchor(where: str, texts: str | list[str] | None, pattern: str | None) -> Anchor | None:
    if texts is None and pattern is None:
        return None
    if texts is not None and pattern is not None:
        raise ValueError(f"{where} is there twice")
    if pattern is not None:
        try:
            return Anchor(regex.compile(pattern, regex.DOTALL), grows=True)
        except regex.error as error:
            raise ValueError(f"{where}: {error}") from None
    texts = sorted([texts] if isinstance(texts, str) else texts or [], key=len, reverse=True)
    if not all(texts):
        raise ValueError(f"{where}: an empty text")
    grows = any(longer != text and longer.startswith(text) for longer in texts for text in texts)
    return Anchor(regex.compile("|".join(map(regex.escape, texts))), grows)
