"""Calls in a block of Python, as Gemma's templates for tools ask for them.

```tool_code
f(city="Oslo", days=3)
print(g())
```
"""

from collections.abc import Set

from msgspec import Struct

from ..part import Part, PartParser, StateParser
from .formats import Schemas, TokenId
from .grammar import as_json, repeated
from .pythonic_calls import CallEnd, call_in, call_rules

_OPENING, _CLOSING = "```tool_code", "```"
_PRINT = "print("


class ToolCodeFormat(Struct, frozen=True):
    """See ToolFormat."""

    names: tuple[str, ...] = ("tool_code",)
    shows: tuple[str, ...] = ("tool_code",)
    opening: str = _OPENING
    bare_object: str | None = None

    def parser(self, schemas: Schemas, *, only_calls: bool, parallel: bool) -> PartParser:  # noqa: ARG002
        """See ToolFormat."""
        return ToolCodeParser(frozenset(schemas), parallel=parallel)

    def rules(self, schemas: Schemas, token_id: TokenId, parallel: bool) -> str:  # noqa: ARG002
        """See ToolFormat."""
        calls = repeated("call", as_json("\n"), parallel)
        return (
            f"calls: {as_json(f'{_OPENING}{chr(10)}')} {calls} {as_json(f'{chr(10)}{_CLOSING}')}\n{call_rules(schemas)}"
        )


TOOL_CODE = ToolCodeFormat()


class ToolCodeParser(StateParser):
    """Reads one answer; see PartParser. A call leaves whole; a block that begins with something else is text."""

    thinking = False

    def __init__(self, names: Set[str], *, parallel: bool) -> None:
        """``names``: functions that may be called. The rest: see ToolFormat."""
        super().__init__("text")
        self._names = names
        self._parallel = parallel
        self._end = CallEnd()  # of the line at hand
        self._skipped = ""  # in front of the first call, and text after all if there is none
        self.calls = 0

    def feed_special(self, text: str) -> list[Part]:  # noqa: ARG002
        """See PartParser."""
        return []

    def flush(self) -> list[Part]:
        """See PartParser."""
        text = self._skipped + self._held if self._state == "text" or self._skipped else ""
        self._held = self._skipped = ""
        return [Part(text)] if text else []

    def _text(self, found: list[Part]) -> bool:
        if not self._take_text(found, _OPENING):
            return False
        self._skipped, self._state = _OPENING, "code"
        return True

    def _code(self, found: list[Part]) -> bool:
        if self._end.at_begin:
            line = self._held.lstrip()
            if self._skipped:
                self._skipped += self._held[: len(self._held) - len(line)]
            self._held = line
            if not line or _CLOSING.startswith(line):
                return False
            if line.startswith(_CLOSING):
                self._held = line[len(_CLOSING) :]
                self._state, text, self._skipped = "text", self._skipped, ""
                if text:
                    found.append(Part(text + _CLOSING))
                return True
        end = self._end.find(self._held)
        if end < 0:
            return False
        line, self._held, self._end = self._held[:end], self._held[end:], CallEnd()
        call = call_in(line[len(_PRINT) : -1] if line.startswith(_PRINT) else line)
        if call is None or call[0] not in self._names:
            self._held, self._state = self._skipped + line + self._held, "rest"
            return True
        self._skipped = ""
        if self._parallel or not self.calls:
            self.calls += 1
            found += [Part(name=call[0]), Part(arguments=as_json(call[1]))]
        return True

    def _rest(self, found: list[Part]) -> bool:
        """Of a block that has something else in it: text up to its end."""
        text, self._held, self._skipped = self._held, "", ""
        found.append(Part(text))
        self._state = "text"
        return False
