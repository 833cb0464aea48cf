"""Calls that are a name and then its arguments as JSON.

Mistral from v11        [TOOL_CALLS]f[ARGS]{...}
DeepSeek V3, R1         <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{...}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>
GLM-4, GLM-4-0414       f\n{...}<|assistant|>g\n{...}, and nothing else
DeepSeek V3.1           <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{...}<｜tool▁call▁end｜><｜tool▁calls▁end｜>
"""  # noqa: E501

from collections.abc import Set

from msgspec import Struct

from ..part import Part, PartParser, StateParser
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
        between: what stands between calls.
    """

    names: tuple[str, ...]
    shows: tuple[str, ...]
    opening: str
    behind: str
    before: str = ""
    after: tuple[str, ...] = ()
    closing: str = ""
    each: bool = False
    between: str = ""
    bare_object: str | None = None

    @property
    def marks(self) -> tuple[str, ...]:
        """What can be a special token."""
        return (self.opening, self.before, self.behind, *self.after, self.closing, self.between)

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
        calls = f"{opening} {repeated('call', written(self.between, token_id), parallel)} {closing}"
        return f"calls: {calls}\ncall: {call}\n{''.join(rules)}"


MISTRAL_ARGS = NamedFormat(("mistral",), ("[TOOL_CALLS]", "[ARGS]"), "[TOOL_CALLS]", "[ARGS]", each=True)
_BEGIN, _END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
_CALL_BEGIN, _CALL_END, _SEPARATOR = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"
DEEPSEEK_V3 = NamedFormat(
    ("deepseek_v3",), (_BEGIN, "```json"), _BEGIN, "\n```json\n", f"{_CALL_BEGIN}function{_SEPARATOR}",
    ("\n```", _CALL_END), _END,
)  # fmt: skip
DEEPSEEK_V31 = NamedFormat(("deepseek_v31",), (_BEGIN,), _BEGIN, _SEPARATOR, _CALL_BEGIN, (_CALL_END,), _END)

GLM4 = NamedFormat(("glm4",), ("请使用 Json 格式表示调用的参数",), "", "\n", between="<|assistant|>")


class NamedCallParser(StateParser):
    """Reads one answer; see PartParser. What only looked like a call is text."""

    thinking = False

    def __init__(self, form: NamedFormat, names: Set[str], *, parallel: bool) -> None:
        """``names``: functions that may be called. The rest: see ToolFormat."""
        super().__init__("text" if form.opening else "name")
        self._form = form
        self._names = names
        self._parallel = parallel
        self._skipped = ""  # in front of it, and text after all if no call follows
        self._object = ObjectEnd()
        self._wanted = True  # the call at hand is not one too many
        self.calls = 0

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
        if not opening:  # calls are the whole answer, and this is none
            found.append(Part(self._held))
            self._held = ""
        elif self._take_text(found, opening):
            self._skipped, self._state = opening, "name"
            return True
        return False

    def _name(self, found: list[Part]) -> bool:
        form, begin = self._form, self._held.lstrip(_SPACE)
        if not begin.startswith(form.before):
            return False if form.before.startswith(begin) else self._give_up(found)
        at = begin.find(form.behind, len(form.before))
        if at < 0:
            return False if self._may_be_name(begin) else self._give_up(found)
        # Some of Mistral's models name a call before its arguments.
        name = begin[len(form.before) : at].partition("[CALL_ID]")[0].strip()
        rest = begin[at + len(form.behind) :]
        if name not in self._names or (not form.opening and rest and rest[0] != "{"):
            return self._give_up(found)
        if not form.opening and not rest:
            return False  # without a mark, only a brace shows that it is a call
        self._held = rest
        self._skipped, self._state, self._object = "", "arguments", ObjectEnd()
        self._wanted = self._parallel or not self.calls
        if self._wanted:
            self.calls += 1
            found.append(Part(name=name))
        return True

    def _may_be_name(self, begin: str) -> bool:
        """So far, with nothing behind it. Text without a mark in front should not wait for the end of its line."""
        if self._form.opening:
            return len(begin) <= _MAX_NAME_CHARACTERS
        return any(f"{self._form.before}{name}{self._form.behind}".startswith(begin) for name in self._names)

    def _give_up(self, found: list[Part]) -> bool:
        """It is text, up to what may be another call."""
        at = self._held.find(self._form.opening) if self._form.opening else -1
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
        for mark in (*(after.strip() for after in form.after), form.closing, form.opening, form.before, form.between):
            if mark and begin.startswith(mark):
                if mark in (form.opening, form.before, form.between):
                    self._state = "name"
                    self._skipped = "" if mark == form.before else mark
                    self._held = begin if mark == form.before else begin[len(mark) :]
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
