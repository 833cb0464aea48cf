"""Calls that are a name and then its arguments as JSON.

Mistral from v11        [TOOL_CALLS]f[ARGS]{...}
DeepSeek V3, R1         <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{...}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>
DeepSeek V3.1           <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{...}<｜tool▁call▁end｜><｜tool▁calls▁end｜>
"""  # noqa: E501

from collections.abc import Set
from typing import Literal

from msgspec import Struct

from ..part import Part, PartParser, overlap
from .formats import Schemas, TokenId
from .grammar import as_json, repeated, written
from .nesting import Nesting

_MAX_NAME_CHARACTERS = 256
_SPACE = " \t\r\n"


class NamedFormat(Struct, frozen=True):
    """One of them; see ToolFormat.

    Attributes:
        before, behind: what stands around the name. after: what follows the arguments. closing: what ends all calls.
        each: every call has the opening, not all of them one.
    """

    names: tuple[str, ...]
    shows: tuple[str, ...]
    opening: str
    behind: str
    before: str = ""
    after: tuple[str, ...] = ()
    closing: str = ""
    each: bool = False
    bare_object: str | None = None

    @property
    def marks(self) -> tuple[str, ...]:
        """What can be a special token."""
        return (self.opening, self.before, self.behind, *self.after, self.closing)

    def parser(self, schemas: Schemas, *, only_calls: bool, parallel: bool) -> PartParser:  # noqa: ARG002
        """See ToolFormat."""
        return NamedCallParser(self, frozenset(schemas), parallel=parallel)

    def rules(self, schemas: Schemas, token_id: TokenId, parallel: bool) -> str:
        """See ToolFormat."""
        opening, closing = written(self.opening, token_id), written(self.closing, token_id)
        before, behind = written(self.before, token_id), written(self.behind, token_id)
        after = written("".join(self.after), token_id)
        bodies, rules = [], []
        for index, (name, schema) in enumerate(schemas.items()):
            bodies.append(f"{as_json(name)} {behind} arguments_{index}")
            rules.append(f"arguments_{index}: %json {as_json(schema)}\n")
        call = f"{before} ({' | '.join(bodies)}) {after}"
        if self.each:
            return f"calls: {repeated('call', '', parallel)}\ncall: {opening} {call}\n{''.join(rules)}"
        calls = f"{opening} {repeated('call', '', parallel)} {closing}"
        return f"calls: {calls}\ncall: {call}\n{''.join(rules)}"


MISTRAL_ARGS = NamedFormat(("mistral",), ("[TOOL_CALLS]", "[ARGS]"), "[TOOL_CALLS]", "[ARGS]", each=True)
_BEGIN, _END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
_CALL_BEGIN, _CALL_END, _SEPARATOR = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"
DEEPSEEK_V3 = NamedFormat(
    ("deepseek_v3",), (_BEGIN, "```json"), _BEGIN, "\n```json\n", f"{_CALL_BEGIN}function{_SEPARATOR}",
    ("\n```", _CALL_END), _END,
)  # fmt: skip
DEEPSEEK_V31 = NamedFormat(("deepseek_v31",), (_BEGIN,), _BEGIN, _SEPARATOR, _CALL_BEGIN, (_CALL_END,), _END)


class NamedCallParser:
    """Reads one answer; see PartParser. What only looked like a call is text."""

    thinking = False

    def __init__(self, form: NamedFormat, names: Set[str], *, parallel: bool) -> None:
        """``names``: functions that may be called. The rest: see ToolFormat."""
        self._form = form
        self._names = names
        self._parallel = parallel
        self._state: Literal["text", "name", "arguments", "behind"] = "text"
        self._held = ""  # may be the beginning of a mark, or a name that isn't whole
        self._skipped = ""  # in front of it, and text after all if no call follows
        self._object = ObjectEnd()
        self._wanted = True  # the call at hand is not one too many
        self.calls = 0

    def feed(self, text: str) -> list[Part]:
        """See PartParser."""
        found: list[Part] = []
        self._held += text
        while self._held and getattr(self, f"_{self._state}")(found):
            pass
        return found

    def feed_special(self, text: str) -> list[Part]:
        """See PartParser."""
        return self.feed(text) if any(text in mark for mark in self._form.marks) else []

    def flush(self) -> list[Part]:
        """See PartParser."""
        text = self._skipped + self._held if self._state in ("text", "name") else ""
        self._held = self._skipped = ""
        return [Part(text)] if text else []

    def _text(self, found: list[Part]) -> bool:
        opening = self._form.opening
        at = self._held.find(opening)
        text = self._held[: at if at >= 0 else len(self._held) - overlap(self._held, [opening])]
        self._held = self._held[len(text) :]
        if text:
            found.append(Part(text))
        if at < 0:
            return False
        self._held = self._held[len(opening) :]
        self._skipped, self._state = opening, "name"
        return True

    def _name(self, found: list[Part]) -> bool:
        form, begin = self._form, self._held.lstrip(_SPACE)
        if not begin.startswith(form.before):
            return False if form.before.startswith(begin) else self._give_up(found)
        at = begin.find(form.behind, len(form.before))
        if at < 0:
            return False if len(begin) <= _MAX_NAME_CHARACTERS else self._give_up(found)
        # Some of Mistral's models name a call before its arguments.
        name = begin[len(form.before) : at].partition("[CALL_ID]")[0].strip()
        if name not in self._names:
            return self._give_up(found)
        self._held = begin[at + len(form.behind) :]
        self._skipped, self._state, self._object = "", "arguments", ObjectEnd()
        self._wanted = self._parallel or not self.calls
        if self._wanted:
            self.calls += 1
            found.append(Part(name=name))
        return True

    def _give_up(self, found: list[Part]) -> bool:
        """It is text, up to what may be another call."""
        at = self._held.find(self._form.opening)
        text = self._held if at < 0 else self._held[:at]
        found.append(Part(self._skipped + text))
        self._held, self._skipped, self._state = self._held[len(text) :], "", "text"
        return True

    def _arguments(self, found: list[Part]) -> bool:
        if not self._object.begun:
            self._held = self._held.lstrip(_SPACE)
        end = self._object.find(self._held)
        piece, self._held = self._held[:end], self._held[end:]
        if piece and self._wanted:
            found.append(Part(arguments=piece))
        if not self._object.over:
            return False
        self._state = "behind"
        return True

    def _behind(self, found: list[Part]) -> bool:  # noqa: ARG002
        """Marks and space between calls, or text again."""
        form, begin = self._form, self._held.lstrip(_SPACE)
        for mark in (*(after.strip() for after in form.after), form.closing, form.opening, form.before):
            if mark and begin.startswith(mark):
                if mark in (form.opening, form.before):
                    self._state = "name"
                    self._skipped = mark if mark == form.opening else ""
                    self._held = begin[len(mark) :] if mark == form.opening else begin
                else:
                    self._held = begin[len(mark) :]
                return True
            if mark and mark.startswith(begin):
                return False
        self._state = "text"
        return True


class ObjectEnd:
    """Finds the end of a JSON object that comes in pieces.

    Attributes:
        begun: its first brace was there. over: its last one, too; or there is no object.
    """

    def __init__(self) -> None:
        self._nesting = Nesting()
        self.begun = False
        self.over = False

    def find(self, text: str) -> int:
        """How much of the text belongs to it."""
        for position, character in enumerate(text):
            if not self.begun and character != "{":
                self.over = True
                return position
            self.begun = True
            if self._nesting.read(character) and self._nesting.depth == 0:
                self.over = True
                return position + 1
        return len(text)
