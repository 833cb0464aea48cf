"""Logprobs of an answer in the two forms that OpenAI has; they are the model's own, before any sampling parameter."""

from collections.abc import Sequence

from ..text.text_sequence import SequenceOutput, Token
from .schema import CompletionLogprobs, TokenLogprob, TopLogprob

_REPLACEMENT = "\ufffd"  # shown for a part of a character


def chat_logprobs(output: SequenceOutput, start: int, stop: int, top: int) -> list[TokenLogprob]:
    """Of tokens ``start`` to ``stop``; special ones are no part of the answer.

    Args:
        top: how many of the best tokens to show; the engine may know more, if there is a tie.
    """
    found = []
    for position in range(start, stop):
        token = output.tokens[position]
        if not token.special:
            best = [TopLogprob(one.text, one.logprob, _bytes(one.text)) for one in _best(output, position, top)]
            found.append(TokenLogprob(token.text, token.logprob, _bytes(token.text), best))
    return found


class CompletionLogprobsBuilder:
    """Parallel lists for the tokens of one completion, which may come in pieces."""

    def __init__(self, top: int) -> None:
        """``top``: how many of the best tokens to show."""
        self._top = top
        self._offset = 0  # characters so far

    def prompt(self, tokens: Sequence[tuple[str, bool]], logprobs: Sequence[float]) -> CompletionLogprobs:
        """Of an echoed prompt: text of each token and whether it is special; the first token has no logprob.

        What else could have stood in a prompt is not known: no top logprobs.
        """
        part = self._empty()
        for (text, special), logprob in zip(tokens, [None, *logprobs], strict=True):
            self._add(part, text, logprob, None, "" if special else text)
        return part

    def tokens(self, output: SequenceOutput, start: int, stop: int) -> CompletionLogprobs:
        """Of tokens ``start`` to ``stop``."""
        part = self._empty()
        for position in range(start, stop):
            token = output.tokens[position]
            if not token.special:
                best = {one.text: one.logprob for one in _best(output, position, self._top)}
                self._add(part, token.text, token.logprob, best, token.text)
        return part

    def _empty(self) -> CompletionLogprobs:
        return CompletionLogprobs([], [], [] if self._top else None, [])

    def _add(
        self,
        part: CompletionLogprobs,
        text: str,
        logprob: float | None,
        best: dict[str, float | None] | None,
        shown: str,
    ) -> None:
        part.tokens.append(text)
        part.token_logprobs.append(logprob)
        if part.top_logprobs is not None:
            part.top_logprobs.append(best)
        part.text_offset.append(self._offset)
        self._offset += len(shown)


def _best(output: SequenceOutput, position: int, top: int) -> Sequence[Token]:
    if not output.top_tokens:
        return ()
    # The drawn token has its text in its place; alone it might have lost a space.
    drawn = output.tokens[position]
    return [drawn if one.id == drawn.id else one for one in output.top_tokens[position][:top]]


def _bytes(text: str) -> list[int] | None:
    return None if not text or _REPLACEMENT in text else list(text.encode())
