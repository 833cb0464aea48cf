"""Calls in tags, an argument each, whose values are written as they are: a text has no quotes.

Qwen 3 Coder    <tool_call>\n<function=f>\n<parameter=city>\nOslo\n</parameter>\n</function>\n</tool_call>
GLM-4.5         <tool_call>f\n<arg_key>city</arg_key>\n<arg_value>Oslo</arg_value>\n</tool_call>
"""

from typing import Any

import msgspec
from msgspec import Struct

from ..part import Part, PartParser, StateParser, overlap
from .formats import Schemas, TokenId
from .grammar import as_json, repeated, rule_up_to, written

_MAX_HEAD_CHARACTERS = 1024  # of a function's or an argument's name


class TaggedFormat(Struct, frozen=True):
    """One of them; see ToolFormat. The rest is what stands around a function's name, an argument's and its value."""

    names: tuple[str, ...]
    shows: tuple[str, ...]
    name_open: str
    name_close: str
    key_open: str
    key_close: str
    value_open: str
    value_close: str
    end: str = ""  # of all arguments
    opening: str = "<tool_call>"
    closing: str = "</tool_call>"
    bare_object: str | None = None

    def parser(self, schemas: Schemas, *, only_calls: bool, parallel: bool) -> PartParser:  # noqa: ARG002
        """See ToolFormat."""
        return TaggedCallParser(self, schemas, parallel=parallel)

    def rules(self, schemas: Schemas, token_id: TokenId, parallel: bool) -> str:
        """See ToolFormat. Arguments come in the schema's order, and no others."""
        bodies, rules = [], []
        for index, (name, schema) in enumerate(schemas.items()):
            terms = [as_json(f"{self.name_open}{name}{self.name_close}")]
            for position, (key, value) in enumerate(schema.get("properties", {}).items()):
                rule = f"argument_{index}_{position}"
                terms.append(rule if key in schema.get("required", ()) else f"{rule}?")
                rules.append(self._argument(rule, key, value, schema, token_id))
            bodies.append(f"call_{index}")
            rules.append(f"call_{index}: {' '.join(terms)}\n")
        opening, closing = written(self.opening, token_id), written(self.closing, token_id)
        end = f"{written(self.end, token_id)} {as_json(chr(10))}" if self.end else ""
        begin = as_json("\n") if self.name_open else ""
        call = f"call: {opening} {begin} ({' | '.join(bodies)}) {end} {closing}\n"
        return f"calls: {repeated('call', as_json(chr(10)), parallel)}\n{call}{''.join(rules)}"

    def _argument(self, rule: str, key: str, value: dict[str, Any], schema: dict[str, Any], token_id: TokenId) -> str:
        head = written(f"{self.key_open}{key}{self.key_close}\n{self.value_open}", token_id)
        tail = f"{self.value_close}\n"
        choices = value.get("enum", [value["const"]] if "const" in value else ())
        if choices and all(isinstance(choice, str) for choice in choices):
            texts = " | ".join(as_json(choice) for choice in choices)
            return f"{rule}: {head} ({texts}) {written(self._line + tail, token_id)}\n"
        if is_text(value):
            up_to = rule_up_to(f"{rule}_text", (self._line + self.value_close,), token_id)
            return f'{rule}: {head} {rule}_text "\\n"\n{up_to}'
        shared = {key: schema[key] for key in ("$defs", "definitions", "x-guidance") if key in schema}
        return f"{rule}: {head} {rule}_json {written(self._line + tail, token_id)}\n{rule}_json: %json {as_json(value | shared)}\n"  # noqa: E501

    @property
    def _line(self) -> str:
        """Stands in front of a value's end where it has lines of its own."""
        return "" if self.value_open else "\n"


QWEN_CODER = TaggedFormat(
    ("qwen3_coder", "qwen3_xml"), ("<tool_call>", "<function="), "<function=", ">\n", "<parameter=", ">", "",
    "</parameter>", "</function>",
)  # fmt: skip
GLM = TaggedFormat(
    ("glm45", "glm47"), ("<tool_call>", "<arg_key>"), "", "\n", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"
)


def is_text(schema: dict[str, Any]) -> bool:
    """A value is text, whatever it looks like."""
    kinds = schema.get("type")
    kinds = [kinds] if isinstance(kinds, str) else kinds or ()
    return "string" in kinds and set(kinds) <= {"string", "null"}


class TaggedCallParser(StateParser):
    """Reads one answer; see PartParser. Arguments leave as JSON, a text's characters as they come."""

    thinking = False

    def __init__(self, form: TaggedFormat, schemas: Schemas, *, parallel: bool) -> None:
        """See ToolFormat."""
        super().__init__("text")
        self._form = form
        self._schemas = schemas
        self._parallel = parallel
        self._schema: dict[str, Any] = {}  # of the arguments of the call at hand
        self._wanted = True  # it is not one too many
        self._arguments = 0  # of it, begun
        self._is_text = False  # the value at hand
        self._value_begun = False
        self.calls = 0

    def feed_special(self, text: str) -> list[Part]:
        """See PartParser."""
        form = self._form
        known = (form.opening, form.closing, form.end, form.key_open, form.key_close, form.value_open, form.value_close)
        return self.feed(text) if text in known else []

    def flush(self) -> list[Part]:
        """See PartParser."""
        held, self._held = self._held, ""
        if self._state == "name":
            held = self._form.opening + held
        elif self._state != "text":
            return []
        return [Part(held)] if held else []

    def _text(self, found: list[Part]) -> bool:
        if not self._take_text(found, self._form.opening):
            return False
        self._state = "name"
        return True

    def _name(self, found: list[Part]) -> bool:
        form, begin = self._form, self._held.lstrip()
        if not begin.startswith(form.name_open):
            return False if form.name_open.startswith(begin) else self._give_up(found)
        ends = [at for mark in (form.name_close.strip() or "\n", form.key_open, form.closing)
                if (at := begin.find(mark, len(form.name_open))) >= 0]  # fmt: skip
        if not ends:
            return False if len(begin) <= _MAX_HEAD_CHARACTERS else self._give_up(found)
        name = begin[len(form.name_open) : min(ends)].strip()
        if name not in self._schemas:
            return self._give_up(found)
        self._held = begin[min(ends) :].removeprefix(form.name_close.strip())
        self._schema, self._state, self._arguments = self._schemas[name], "key", 0
        self._wanted = self._parallel or not self.calls
        if self._wanted:
            self.calls += 1
        self._send(found, Part(name=name), Part(arguments="{"))
        return True

    def _give_up(self, found: list[Part]) -> bool:
        found.append(Part(self._form.opening))
        self._state = "text"
        return True

    def _key(self, found: list[Part]) -> bool:
        """The next argument, or the end."""
        form, begin = self._form, self._held.lstrip()
        for mark in filter(None, (form.end, form.closing)):
            if begin.startswith(mark):
                self._send(found, Part(arguments="}"))
                self._held, self._state = begin, "behind"
                return True
        if not begin.startswith(form.key_open):
            if any(mark.startswith(begin) for mark in (form.key_open, form.end, form.closing) if mark):
                return False
            self._held = begin[1:]  # no argument begins here
            return True
        at = begin.find(form.key_close, len(form.key_open))
        if at < 0:
            return False
        rest = begin[at + len(form.key_close) :].lstrip() if form.value_open else begin[at + len(form.key_close) :]
        if not rest.startswith(form.value_open):
            return False
        key = begin[len(form.key_open) : at].strip()
        self._held, self._state, self._value_begun = rest[len(form.value_open) :], "value", False
        self._is_text = is_text(self._schema.get("properties", {}).get(key, {}))
        separator = ", " if self._arguments else ""
        self._arguments += 1
        quote = '"' if self._is_text else ""
        self._send(found, Part(arguments=f"{separator}{as_json(key)}: {quote}"))
        return True

    def _value(self, found: list[Part]) -> bool:
        """A text leaves as it comes; what else it is can be told at its end."""
        close, held = self._form.value_close, self._held
        if self._is_text and not self._value_begun and not self._form.value_open:
            held = held.removeprefix("\n")  # the one behind the tag
        self._value_begun = True
        at = held.find(close)
        if at >= 0:
            value = held[:at]
            if not self._form.value_open:
                value = value.removesuffix("\n")
            self._send(found, Part(arguments=f'{_escaped(value)}"' if self._is_text else _as_value(value)))
            self._held, self._state = held[at + len(close) :], "key"
            return True
        self._held = held
        if self._is_text:
            sure = len(held) - overlap(held, [close])
            sure -= held[:sure].endswith("\n")
            self._send(found, Part(arguments=_escaped(held[:sure])))
            self._held = held[sure:]
        return False

    def _behind(self, found: list[Part]) -> bool:  # noqa: ARG002
        """The end of a call; behind it text, or another."""
        form, begin = self._form, self._held.lstrip()
        for mark in filter(None, (form.end, form.closing)):
            if begin.startswith(mark):
                self._held = begin[len(mark) :]
                return True
        if not begin or any(mark.startswith(begin) for mark in (form.end, form.closing, form.opening) if mark):
            return False
        self._held = begin
        self._state = "text"
        return True

    def _send(self, found: list[Part], *parts: Part) -> None:
        if self._wanted:
            found += [part for part in parts if part.name is not None or part.arguments]


def _escaped(text: str) -> str:
    """A part of a JSON string."""
    return as_json(text)[1:-1]


def _as_value(text: str) -> str:
    """JSON as it was written, or the text as a string if it is none."""
    try:
        msgspec.json.decode(text.strip())
    except (msgspec.DecodeError, RecursionError):
        return as_json(text.strip())
    return text.strip()
