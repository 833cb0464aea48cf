"""What a grammar allows as a sequence's next token, by llguidance.

A mask has one bit per token id, in int32 words. Inside a JSON string it takes 5 us, at the edges of a structure or
regular expression 10 to 100; llguidance's own limits (grammar_compiler.py) bound it at about 20 ms for grammars made to
be slow. Its masks leave out the GIL; tokens are taken under it (1 us).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from llguidance import LLExecutor, LLMatcher, LLTokenizer


class GrammarError(Exception):
    """A grammar that can't be used; the message says why, for the client."""


class Vocabulary(NamedTuple):
    """What a model's tokens are to llguidance."""

    tokenizer: LLTokenizer  # with as many ids as the logits
    num_tokens: int  # of the tokenizer itself; what is beyond has no text
    eos_ids: tuple[int, ...]


class Matcher:
    """Where one sequence stands in its grammar.

    Once the grammar is complete only the sequence's end is allowed. That is its own stop tokens; of a sequence that has
    none (it ignores the end of sequence) the model's, which then repeats until it has all its tokens.

    Attributes:
        error: why the sequence can't go on, if so: a limit was hit. Its masks allow nothing but the end from then on.
        is_done: the grammar is complete; nothing can follow but the end.
    """

    def __init__(self, state: LLMatcher, vocabulary: Vocabulary, stop_token_ids: tuple[int, ...]) -> None:
        """
        Args:
            state: at the beginning of the grammar, this matcher's own.
            vocabulary: that ``state`` was made with.
            stop_token_ids: those that end the sequence.
        """
        self._state = state
        self._eos_ids = eos_ids = vocabulary.eos_ids
        self._num_tokens = vocabulary.num_tokens
        stops = tuple(t for t in stop_token_ids if t < vocabulary.tokenizer.vocab_size)
        self._may_end = bool(stops)
        self._ends = tuple(t for t in stops if t in eos_ids) or stops or eos_ids
        self.error: str | None = None
        self.is_done = False

    def advance(self, token_id: int) -> None:
        """Take the token that was drawn."""
        if self.error is not None or token_id in self._ends:
            return  # nothing follows, or nothing but the end again
        if not self._state.consume_token(token_id):
            self._fail()
        elif self._state.is_stopped():
            self.is_done = True

    def allow(self, bits: np.ndarray) -> None:
        """Write which tokens may come next to ``bits``, int32 [ceil(vocab / 32)], contiguous."""
        if not self.is_done and self.error is None:
            self._state.unsafe_compute_mask_ptr(bits.ctypes.data, bits.nbytes)
        self._finish(bits)

    def _finish(self, bits: np.ndarray) -> None:
        """Put the sequence's own end in the place of llguidance's."""
        if self._state.is_error() and self.error is None:
            self._fail()
        words = bits.view(np.uint32)
        may_end = self._may_end
        if not self.is_done and self.error is None:
            self._drop_strange(words)
        if not self.is_done and self.error is None:
            if not _has(words, self._eos_ids[0]):
                return
            for token_id in self._eos_ids:
                words[token_id // 32] &= ~np.uint32(1 << token_id % 32)
            self.is_done = not words.any()
        if self.is_done or self.error is not None:
            words[:] = 0
            may_end = True
        if may_end:
            for token_id in self._ends:
                words[token_id // 32] |= np.uint32(1 << token_id % 32)

    def _drop_strange(self, words: np.ndarray) -> None:
        """Forbid ids beyond the tokenizer's: a Lark grammar can name tokens by id."""
        word, bit = divmod(self._num_tokens, 32)
        tail = words[word:]
        if not tail.any():
            return
        strange = tail.copy()
        strange[0] &= ~np.uint32((1 << bit) - 1)
        tail ^= strange
        if strange.any() and not words.any():
            self.error = "grammar: it allows nothing but ids that are no tokens"

    def _fail(self) -> None:
        self.error = f"grammar: {reason(self._state.get_error())}"


def allow_all(matchers: Sequence[Matcher], bits: np.ndarray, executor: LLExecutor | None) -> None:
    """Write the mask of matcher i to row i of ``bits``, int32 [at least their number, ceil(vocab / 32)], contiguous.

    With an executor they are computed in parallel. Without, one after the other: where the cores belong to the kernels
    of a step, waking threads takes longer than the masks.
    """
    if executor is None or len(matchers) < 2:
        for matcher, row in zip(matchers, bits, strict=False):
            matcher.allow(row)
        return
    open_ones = [(m._state, i) for i, m in enumerate(matchers) if not m.is_done and m.error is None]
    executor.unsafe_compute_mask_ptr(open_ones, bits.ctypes.data, bits.shape[1] * 4, len(bits))
    for matcher, row in zip(matchers, bits, strict=False):
        matcher._finish(row)


def reason(message: str) -> str:
    """What llguidance says is wrong, without the state of its parser or the text that it points at."""
    lines = message.strip().partition("\n<")[0].splitlines() or [""]
    why = next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), None)  # of a regex
    return (lines[0][:300] if why is None else f"invalid regex: {why}")[:300]


def _has(words: np.ndarray, token_id: int) -> bool:
    return bool(words[token_id // 32] >> np.uint32(token_id % 32) & np.uint32(1))
