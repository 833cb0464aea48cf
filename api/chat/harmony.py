"""GPT-OSS's answers: messages in channels, each with a header that says who hears it.

    <|channel|>analysis<|message|>thoughts<|end|><|start|>assistant<|channel|>final<|message|>text<|return|>
    <|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{"city": "Oslo"}<|call|>

What stands in ``analysis`` is thought; what is addressed to a function is a call; all else is said.
"""

import re
from collections.abc import Set

from msgspec import Struct

from ...engine.messages import Grammar
from ..text.grammar import LARK_HEAD, grammar_rule
from .part import Part, PartParser, overlap
from .tools.formats import Schemas, TokenId
from .tools.grammar import as_json, rule_up_to, written

START, CHANNEL, CONSTRAIN, MESSAGE = "<|start|>", "<|channel|>", "<|constrain|>", "<|message|>"
END = "<|end|>"
_ENDS = (END, "<|call|>", "<|return|>")
_MARKS = (START, CHANNEL, CONSTRAIN, MESSAGE, *_ENDS)
_RECIPIENT = re.compile(r"to=functions\.([A-Za-z0-9_.-]+)")


class HarmonyFormat(Struct, frozen=True):
    """How calls are written; see ToolFormat. One at a time: the token that ends a call ends the answer."""

    names: tuple[str, ...] = ("openai",)
    shows: tuple[str, ...] = (CHANNEL, MESSAGE)
    opening: str = ""
    bare_object: str | None = None

    def parser(self, schemas: Schemas, *, only_calls: bool, parallel: bool) -> PartParser:  # noqa: ARG002
        """See ToolFormat."""
        return HarmonyParser(frozenset(schemas), parallel=parallel)

    def rules(self, schemas: Schemas, token_id: TokenId, parallel: bool) -> str:  # noqa: ARG002
        """See ToolFormat."""
        rules = []
        for index, (name, schema) in enumerate(schemas.items()):
            head = written(f"{CHANNEL}commentary to=functions.{name} {CONSTRAIN}json{MESSAGE}", token_id)
            rules.append(f"call_{index}: {head} arguments_{index}\narguments_{index}: %json {as_json(schema)}\n")
        return f"calls: call\ncall: {' | '.join(f'call_{index}' for index in range(len(schemas)))}\n{''.join(rules)}"


HARMONY_CALLS = HarmonyFormat()


def in_final_channel(grammar: Grammar, token_id: TokenId) -> Grammar:
    """Of a message that is said, and matches another grammar."""
    head = written(f"{CHANNEL}final{MESSAGE}", token_id)
    return Grammar("lark", f"{LARK_HEAD}start: {head} said\n{grammar_rule(grammar, 'said')}")


def harmony_grammar(token_id: TokenId, then: str) -> str:
    """Rules, in llguidance's dialect of Lark, of any thoughts before the rule ``then``."""
    head, tail = written(f"{CHANNEL}analysis{MESSAGE}", token_id), written(f"{START}assistant", token_id)
    thoughts = rule_up_to("thoughts", (END,), token_id)
    return f"start: analysis* {then}\nanalysis: {head} thoughts {tail}\n{thoughts}"


class HarmonyParser:
    """Reads one answer, from the header of its first message on.

    Attributes: see PartParser.
    """

    def __init__(self, names: Set[str], *, parallel: bool) -> None:
        """See ToolParser."""
        self._names = names
        self._parallel = parallel
        self._header: str | None = ""  # of a message whose body hasn't begun; None: inside a body
        self._kind = "final"  # of the body: its channel, "call", or "none" for what nobody hears
        self._held = ""  # may be the beginning of a mark
        self.calls = 0

    @property
    def thinking(self) -> bool:
        return self._header is None and self._kind == "analysis"

    def feed(self, text: str) -> list[Part]:
        """See PartParser."""
        found: list[Part] = []
        held = self._held + text
        while marks := [(at, mark) for mark in _MARKS if (at := held.find(mark)) >= 0]:
            at, mark = min(marks)
            found += self._text(held[:at])
            found += self._mark(mark)
            held = held[at + len(mark) :]
        begun = overlap(held, _MARKS)
        self._held = held[len(held) - begun :]
        return found + self._text(held[: len(held) - begun])

    def feed_special(self, text: str) -> list[Part]:
        """See PartParser."""
        return [*self._text(self._taken()), *self._mark(text)] if text in _MARKS else []

    def flush(self) -> list[Part]:
        """See PartParser."""
        held = self._taken()
        if self._header is not None and CHANNEL not in self._header and CONSTRAIN not in self._header:
            # No header ever came: a model that was told to leave them out, or none of this kind.
            text, self._header = self._header.removeprefix("assistant") + held, None
            return [Part(text)] if text else []
        return self._text(held)

    def _taken(self) -> str:
        held, self._held = self._held, ""
        return held

    def _text(self, text: str) -> list[Part]:
        if not text:
            return []
        if self._header is not None:
            self._header += text
            return []
        match self._kind:
            case "analysis":
                return [Part(reasoning=text)]
            case "call":
                return [Part(arguments=text)]
            case "none":
                return []
        return [Part(text)]

    def _mark(self, mark: str) -> list[Part]:
        if mark in _ENDS or mark == START:
            self._header = ""
            return []
        if mark == MESSAGE:
            return self._begin(self._header or "")
        self._header = (self._header or "") + mark
        return []

    def _begin(self, header: str) -> list[Part]:
        """A body follows."""
        self._header = None
        channel = header.partition(CHANNEL)[2]
        self._kind = "analysis" if channel.lstrip().startswith("analysis") else "final"
        recipient = _RECIPIENT.search(header)
        if recipient is None or recipient[1] not in self._names:
            return []
        if self.calls and not self._parallel:
            self._kind = "none"
            return []
        self._kind = "call"
        self.calls += 1
        return [Part(name=recipient[1])]
