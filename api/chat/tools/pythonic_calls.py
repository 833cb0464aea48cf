"""Calls as Python writes them.

Llama 4, 3.2        [f(city="Oslo", days=3), g()], perhaps between <|python_start|> and <|python_end|>
"""

import ast
from collections.abc import Set
from typing import Any

import msgspec
from msgspec import Struct

from ..part import Part, PartParser
from .formats import Schemas, TokenId
from .grammar import as_json, repeated

_START, _END = "<|python_start|>", "<|python_end|>"
_JSON_NAMES = {"true": True, "false": False, "null": None}


class PythonicFormat(Struct, frozen=True):
    """See ToolFormat."""

    names: tuple[str, ...]
    shows: tuple[str, ...]
    opening: str = ""
    bare_object: str | None = None

    def parser(self, schemas: Schemas, *, only_calls: bool, parallel: bool) -> PartParser:  # noqa: ARG002
        """See ToolFormat."""
        return PythonicCallParser(frozenset(schemas), parallel=parallel)

    def rules(self, schemas: Schemas, token_id: TokenId, parallel: bool) -> str:  # noqa: ARG002
        """See ToolFormat."""
        calls = repeated("call", '", "', parallel)
        return f'calls: "[" {calls} "]"\n{call_rules(schemas)}'


PYTHONIC = PythonicFormat(("pythonic", "llama4_pythonic"), ("[func_name1(",))


def call_rules(schemas: Schemas) -> str:
    """The rule ``call``. Values are JSON, which a parser takes for Python, too; required arguments come first."""
    bodies, rules = [], []
    for index, (name, schema) in enumerate(schemas.items()):
        shared = {key: schema[key] for key in ("$defs", "definitions", "x-guidance") if key in schema}
        required: list[str] = []
        optional: list[str] = []
        for position, (key, value) in enumerate(schema.get("properties", {}).items()):
            rule = f"argument_{index}_{position}"
            rules.append(f"{rule}: {as_json(f'{key}=')} {rule}_json\n{rule}_json: %json {as_json(value | shared)}\n")
            (required if key in schema.get("required", ()) else optional).append(rule)
        first = ' ", " '.join(required)
        more = " ".join(f'(", " {rule})?' for rule in optional) if required else ""
        if not required and optional:
            more = f"({' | '.join(optional)})?"
        bodies.append(f"call_{index}")
        rules.append(f'call_{index}: {as_json(f"{name}(")} {first} {more} ")"\n')
    return f"call: {' | '.join(bodies)}\n{''.join(rules)}"


class PythonicCallParser:
    """Reads one answer; see PartParser. It is a list of calls from its beginning, or text; a call leaves whole."""

    thinking = False

    def __init__(self, names: Set[str], *, parallel: bool) -> None:
        """``names``: functions that may be called. The rest: see ToolFormat."""
        self._names = names
        self._parallel = parallel
        self._is_text = False
        self._inside = False  # behind the bracket that begins the list
        self._held = ""
        self._end = CallEnd()  # of the call at hand
        self.calls = 0

    def feed(self, text: str) -> list[Part]:
        """See PartParser."""
        if self._is_text:
            return [Part(text)] if text else []
        self._held += text
        if not self._inside:
            begin = self._held.lstrip().removeprefix(_START).lstrip()
            if not begin or _START.startswith(begin):
                return []
            if not begin.startswith("["):
                return self._give_up()
            self._inside, self._held = True, begin[1:]
        return self._calls()

    def feed_special(self, text: str) -> list[Part]:  # noqa: ARG002
        """See PartParser."""
        return []

    def flush(self) -> list[Part]:
        """See PartParser."""
        if self._is_text or self.calls or not (self._inside or self._held):
            return []
        return self._give_up()

    def _calls(self) -> list[Part]:
        found: list[Part] = []
        while True:
            if self._end.at_begin:
                self._held = self._held.lstrip(", \n")
            if self._held.startswith("]"):
                rest = self._held[1:].strip().removesuffix(_END)
                self._held = self._held if rest == "" or _END.startswith(rest) else ""
                return found
            end = self._end.find(self._held)
            if end < 0:
                return found
            call = call_in(self._held[:end])
            if call is None or call[0] not in self._names:
                return [*found, *([] if self.calls else self._give_up())]
            self._held, self._end = self._held[end:], CallEnd()
            if self._parallel or not self.calls:
                self.calls += 1
                found += [Part(name=call[0]), Part(arguments=as_json(call[1]))]

    def _give_up(self) -> list[Part]:
        text = ("[" if self._inside else "") + self._held
        self._is_text, self._held = True, ""
        return [Part(text)] if text else []


class CallEnd:
    """Finds the end of a call that comes in pieces."""

    def __init__(self) -> None:
        self._depth = 0
        self._quote = ""
        self._escaped = False
        self._read = 0  # characters

    @property
    def at_begin(self) -> bool:
        """Nothing of it was there yet."""
        return self._read == 0

    def find(self, text: str) -> int:
        """Where it ends in all that came so far, -1: not yet."""
        for position in range(self._read, len(text)):
            character = text[position]
            if self._quote:
                if self._escaped:
                    self._escaped = False
                elif character == "\\":
                    self._escaped = True
                elif character == self._quote:
                    self._quote = ""
            elif character in "'\"":
                self._quote = character
            elif character in "([{":
                self._depth += 1
            elif character in ")]}":
                self._depth -= 1
                if self._depth <= 0:
                    return position + 1
        self._read = len(text)
        return -1


def call_in(text: str) -> tuple[str, dict[str, Any]] | None:
    """Name and arguments, None if it is no call with names for all of them."""
    try:
        call = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    if not isinstance(call, ast.Call) or call.args:
        return None
    try:
        arguments = {str(keyword.arg): _value(keyword.value) for keyword in call.keywords if keyword.arg}
        msgspec.json.encode(arguments)
    except (ValueError, TypeError, RecursionError):
        return None
    return ast.unparse(call.func), arguments


def _value(node: ast.expr) -> Any:
    """A literal, of Python's or of JSON's. Raises ValueError."""
    if isinstance(node, ast.Name) and node.id in _JSON_NAMES:
        return _JSON_NAMES[node.id]
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(one) for one in node.elts]
    if isinstance(node, ast.Dict):
        return {ast.literal_eval(key): _value(one) for key, one in zip(node.keys, node.values, strict=True) if key}
    return ast.literal_eval(node)
