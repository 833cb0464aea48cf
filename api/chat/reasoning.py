"""Thoughts: how models mark what they think before they answer, found in what they write while they write it.

DeepSeek R1, Qwen 3, GLM-4.5, SmolLM3, Olmo 3 ...   <think> ... </think>
Mistral (Magistral)                                 [THINK] ... [/THINK]
Seed-OSS                                            <seed:think> ... </seed:think>
Granite 3.2                                         Here is my thought process: ... Here is my response: ...
GPT-OSS                                             channels, see harmony.py
"""

from typing import Literal, NamedTuple

from msgspec import Struct

from .conversation import Prompt
from .part import Part, PartParser, overlap
from .tools.formats import TokenId
from .tools.forms import OPENINGS
from .tools.grammar import rule_up_to, written


class ReasoningFormat(Struct, frozen=True):
    """One way to mark thoughts.

    Attributes:
        names: of the parser for it, as vLLM has them.
        openings, closings: what stands around thoughts; each model writes one of them.
        begun: whatever the prompt says, the answer begins with thoughts.
    """

    names: tuple[str, ...]
    openings: tuple[str, ...]
    closings: tuple[str, ...]
    begun: bool = False


_THINK = ("<think>",), ("</think>",)
THINK = ReasoningFormat(("qwen3", "deepseek_v3", "glm45", "olmo3"), *_THINK)
THINK_BEGUN = ReasoningFormat(("deepseek_r1",), *_THINK, begun=True)  # whether or not the prompt shows it
MISTRAL = ReasoningFormat(("mistral",), ("[THINK]",), ("[/THINK]",))
SEED = ReasoningFormat(("seed_oss",), ("<seed:think>",), ("</seed:think>",))
GRANITE = ReasoningFormat(
    ("granite",),
    ("Here is my thought process:", "Here's my thought process:"),
    ("Here is my response:", "Here's my response:"),
)
# What stands in front of an answer: its channel is named between the two.
HARMONY = ReasoningFormat(("openai_gptoss",), ("<|channel|>",), ("<|message|>",))

FORMATS = (HARMONY, MISTRAL, SEED, GRANITE, THINK, THINK_BEGUN)


class Thinking(NamedTuple):
    """That an answer may have thoughts in it, and whether it begins inside them: the prompt has opened them."""

    form: ReasoningFormat
    begun: bool

    def grammar(self, token_id: TokenId, then: str) -> str:
        """Rules, in llguidance's dialect of Lark, of an answer whose thoughts are free, before the rule ``then``."""
        openings = " | ".join(written(mark, token_id) for mark in self.form.openings)
        start = "thoughts" if self.begun else f"(({openings}) thoughts)?"
        # A line feed or two stand behind the mark; a small model that was free to would write no end of them.
        up_to = rule_up_to("thoughts", self.form.closings, token_id)
        return f"start: {start} gap {then}\n{up_to}gap: /\\n{{0,2}}/\n"


def thinking_of(prompt: Prompt, parser: str | None = None) -> Thinking | None:
    """What to expect of the answer to a prompt; None: no thoughts, or the prompt has closed them already.

    Args:
        parser: a name that overrides what the template shows.
    """
    form = _format(prompt.template, parser)
    if form is None or form is HARMONY:
        return None if form is None else Thinking(form, begun=False)
    end, continued = prompt.text.rstrip(), prompt.continued
    if end.endswith(form.closings):
        return None
    # A message to go on with may end in the middle of its thoughts, or behind them.
    opened = max(continued.rfind(mark) for mark in form.openings)
    closed = max(continued.rfind(mark) for mark in form.closings)
    if closed > opened:
        return None
    return Thinking(form, form.begun or end.endswith(form.openings) or opened >= 0)


def _format(template: str, parser: str | None) -> ReasoningFormat | None:
    for form in FORMATS:
        if parser is not None:
            if parser in form.names:
                return form
        elif all(any(mark in template for mark in marks) for marks in (form.openings, form.closings)):
            return form
    # A template that takes thoughts out of the history need not show how they begin.
    return THINK if parser is None and THINK.closings[0] in template else None


class ReasoningParser:
    """Takes the thoughts out of one answer, and gives the rest to another parser.

    Spaces and line feeds just inside the marks and behind them belong to the marks.

    Attributes: see PartParser.
    """

    def __init__(self, thinking: Thinking, answer: PartParser) -> None:
        """``answer``: reads what is not thought."""
        self._form = thinking.form
        self._answer = answer
        self._state: Literal["before", "thinking", "behind", "answer"] = "thinking" if thinking.begun else "before"
        self._held = ""  # may be the beginning of a mark, or space in front of one
        self._begun = False  # a thought was there: space before the first one is none

    @property
    def calls(self) -> int:
        return self._answer.calls

    @property
    def thinking(self) -> bool:
        return self._state == "thinking"

    def feed(self, text: str) -> list[Part]:
        """See PartParser."""
        match self._state:
            case "answer":
                return self._answer.feed(text)
            case "before":
                return self._before(text)
            case "thinking":
                return self._thinking(text)
            case "behind":
                rest = text.lstrip()
                if not rest:
                    return []
                self._state = "answer"
                return self._answer.feed(rest)

    def feed_special(self, text: str) -> list[Part]:
        """See PartParser."""
        if self._state == "thinking":
            if text in self._form.closings:
                return self._close()
            if text in OPENINGS:  # a call ends thoughts that were not closed
                return [*self._close(), *self._answer.feed_special(text)]
            return []
        if text in self._form.openings:
            found = self._answer.feed(self._held) if self._held.strip() else []
            self._state, self._held = "thinking", ""
            return found
        if self._state == "before" and text in OPENINGS:
            self._state = "answer"
            found, self._held = self._answer.feed(self._held), ""
            return [*found, *self._answer.feed_special(text)]
        return self._answer.feed_special(text) if self._state in ("answer", "behind") else []

    def flush(self) -> list[Part]:
        """See PartParser."""
        found: list[Part] = []
        if self._state == "thinking":
            found = self._close()
        elif self._held:
            found = self._answer.feed(self._held)
        self._held = ""
        return found + self._answer.flush()

    def _before(self, text: str) -> list[Part]:
        """Nothing but space so far, or the beginning of a mark."""
        self._held += text
        begin = self._held.lstrip()
        for opening in self._form.openings:
            if begin.startswith(opening):
                self._state, self._held = "thinking", ""
                return self._thinking(begin[len(opening) :])
        if any(opening.startswith(begin) for opening in self._form.openings):
            return []
        self._state = "answer"
        held, self._held = self._held, ""
        return self._answer.feed(held)

    def _thinking(self, text: str) -> list[Part]:
        held = self._held = self._held + text
        if not self._begun:
            held = self._held = held.lstrip()
            for opening in self._form.openings:
                if opening.startswith(held):
                    return []
                if held.startswith(opening):  # though the prompt had opened them
                    self._held = ""
                    return self._thinking(held[len(opening) :])
        closings = [(at, closing) for closing in self._form.closings if (at := held.find(closing)) >= 0]
        if closings:
            at, closing = min(closings)
            self._held = held[:at]
            return [*self._close(), *self.feed(held[at + len(closing) :])]
        sure = held[: len(held) - overlap(held, self._form.closings)].rstrip()
        self._held = held[len(sure) :]
        return self._thought(sure)

    def _close(self) -> list[Part]:
        held, self._held = self._held.rstrip(), ""
        self._state = "behind"
        return self._thought(held)

    def _thought(self, text: str) -> list[Part]:
        if not text:
            return []
        self._begun = True
        return [Part(reasoning=text)]
