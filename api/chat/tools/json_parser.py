"""Finds calls in what a model writes, while it writes them.

Text goes out as text; a call goes out as its name, then the pieces of its arguments exactly as they were written. What
only looked like a call (a function that isn't there, JSON that is none) is text.
"""

import re
from collections.abc import Set

import msgspec

from ..part import Part, overlap
from .nesting import Nesting

# In front of calls, in whatever form: a model may know more than one.
OPENINGS = ("<tool_call>", "[TOOL_CALLS]", "<|python_tag|>", "<|tool_call|>", "<|START_ACTION|>", "Action: ```json")

# The usual beginning of a call: from here on the arguments can be passed on as they come.
_HEAD = re.compile(
    r'\{\s*(?:"tool_call_id"\s*:\s*"[^"]*"\s*,\s*)?"(?:tool_)?name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*'
    r'"(?:arguments|parameters)"\s*:\s*(?=\{)'
)
_MAX_HEAD_CHARACTERS = 2048
_BETWEEN = " \t\r\n,;[]"  # what may stand between calls


class JsonCallParser:
    """Reads one answer.

    Attributes:
        calls: begun so far.
    """

    thinking = False

    def __init__(self, opening: str, closing: str, names: Set[str], *, only_calls: bool, parallel: bool) -> None:
        """
        Args:
            opening, closing: what stands around a call; empty: nothing.
            names: functions that may be called. The rest: see ToolFormat.
        """
        self._closing = closing
        self._names = names
        self._parallel = parallel
        self._object: _Object | None = None
        # Models without an opening write a call as the whole answer, so a brace in front of all else may begin one.
        self._expecting = only_calls or not opening
        self._held = ""  # may be the beginning of an opening or of a call
        self._skipped = ""  # in front of it, and text after all if no call follows
        self.calls = 0

    def feed(self, text: str) -> list[Part]:
        """What ``text`` brings."""
        found: list[Part] = []
        self._held += text
        while self._held and (self._in_call(found) if self._object is not None else self._outside(found)):
            pass
        return found

    def feed_special(self, text: str) -> list[Part]:
        """What a special token brings: some models begin a call with one. Others say nothing."""
        return self.feed(text) if text in OPENINGS or text == self._closing else []

    def flush(self) -> list[Part]:
        """What is left at the end: what might have become a call is text."""
        found: list[Part] = []
        if self._object is not None:
            if self._object.name is None or self._object.refused:
                self._send_text(found, self._skipped + self._object.text)
        elif self._skipped or not (self._expecting and self.calls):  # else: spaces and ends of lists
            self._send_text(found, self._skipped + self._held)
        self._object, self._skipped, self._held = None, "", ""
        return found

    def _outside(self, found: list[Part]) -> bool:
        """Take what is text or stands between calls. Returns whether to go on."""
        return self._between(found) if self._expecting else self._text(found)

    def _text(self, found: list[Part]) -> bool:
        openings = [(at, opening) for opening in OPENINGS if (at := self._held.find(opening)) >= 0]
        if openings:
            at, opening = min(openings)
            self._send_text(found, self._held[:at])
            self._held = self._held[at + len(opening) :]
            self._skipped = opening
            self._expecting = True
            return True
        begun = overlap(self._held, OPENINGS)
        self._send_text(found, self._held[: len(self._held) - begun])
        self._held = self._held[len(self._held) - begun :]
        return False

    def _between(self, found: list[Part]) -> bool:
        begin = 0
        while begin < len(self._held) and self._held[begin] in _BETWEEN and not _begins_opening(self._held[begin:]):
            begin += 1
        rest = self._held[begin:]
        if not rest:
            return False
        if self._skipped or not self.calls:
            self._skipped += self._held[: len(self._held) - len(rest)]
        self._held = rest
        if rest[0] == "{":
            self._object = _Object()
            return True
        for opening in OPENINGS:
            if rest.startswith(opening):
                self._skipped += opening
                self._held = rest[len(opening) :]
                return True
        closing = self._closing
        if closing and self.calls and rest.startswith(closing):
            self._held = rest[len(closing) :]
            return True
        if any(marker.startswith(rest) for marker in (*OPENINGS, closing)):
            return False
        self._expecting = False
        self._send_text(found, self._skipped)
        self._skipped = ""
        return True

    def _in_call(self, found: list[Part]) -> bool:
        call = self._object
        assert call is not None
        piece, self._held = call.feed(self._held), ""
        if call.name is None:
            call.find_name()
            if call.name is not None and call.name not in self._names:
                call.refused = True
            elif call.name is not None and self.calls and not self._parallel:
                call.unwanted = True
            elif call.name is not None:
                self.calls += 1
                found.append(Part(name=call.name))
                piece = call.arguments_so_far()
        if call.name is not None and not call.refused and not call.unwanted and piece:
            found.append(Part(arguments=piece))
        if not call.over:
            return False
        self._object, self._held = None, call.rest
        if call.name is None or call.refused:
            self._expecting = False
            self._send_text(found, self._skipped + call.text)
        self._skipped = ""
        return True

    def _send_text(self, found: list[Part], text: str) -> None:
        if text:
            found.append(Part(text))


class _Object:
    """A JSON object that comes in pieces, and the call in it.

    Attributes:
        text: of the object so far; rest: what came after its end.
        over: it has ended.
        name: of the function, None as long as it isn't known.
        refused: there is no such function; unwanted: it is one call too many.
    """

    def __init__(self) -> None:
        self._nesting = Nesting()
        self._arguments = -1  # where they begin in ``text``, -1: not known
        self._arguments_end = -1
        self._decoded: str | None = None  # arguments that are not as they were written
        self.text = ""
        self.rest = ""
        self.over = False
        self.name: str | None = None
        self.refused = False
        self.unwanted = False

    def feed(self, text: str) -> str:
        """Take more text. Returns what of it belongs to arguments that are known to be such."""
        before = len(self.text)
        end = self._scan(text)
        self.text += text[:end]
        self.rest = text[end:]
        return self.arguments_so_far(before) if self._arguments >= 0 else ""

    def _scan(self, text: str) -> int:
        for position, character in enumerate(text):
            if not self._nesting.read(character):
                continue
            if self._nesting.depth == 1 and self._arguments >= 0 and self._arguments_end < 0:
                self._arguments_end = len(self.text) + position + 1
            if self._nesting.depth <= 0:
                self.over = True
                return position + 1
        return len(text)

    def find_name(self) -> None:
        """Look whether the function is known by now."""
        if len(self.text) <= _MAX_HEAD_CHARACTERS and (head := _HEAD.match(self.text)) is not None:
            self.name = msgspec.json.decode(head[1], type=str)
            self._find_arguments(head.end())
        elif self.over:
            self._decode()

    def _find_arguments(self, start: int) -> None:
        """They begin here; part of them, or all, was already scanned."""
        again = _Object()
        end = again._scan(self.text[start:])
        self._arguments = start
        if again.over:
            self._arguments_end = start + end

    def _decode(self) -> None:
        """Any other order or wrapping of keys; what isn't a call leaves ``name`` unknown."""
        try:
            value = msgspec.json.decode(self.text)
        except (msgspec.DecodeError, RecursionError):
            return
        call = value.get("function") if isinstance(value.get("function"), dict) else value
        name = call.get("name", call.get("tool_name"))
        arguments = call.get("arguments", call.get("parameters", {}))
        if not isinstance(name, str) or not isinstance(arguments, dict | str):
            return
        self.name = name
        self._decoded = arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()

    def arguments_so_far(self, start: int = 0) -> str:
        """Their text, from position ``start`` of ``text``."""
        if self._decoded is not None:
            return self._decoded
        end = len(self.text) if self._arguments_end < 0 else self._arguments_end
        return self.text[max(start, self._arguments) : end]


def _begins_opening(text: str) -> bool:
    """Whether it is the beginning of an opening, or begins with one: Mistral's has the bracket of a list in front."""
    return any(opening.startswith(text[: len(opening)]) for opening in OPENINGS)
