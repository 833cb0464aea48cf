"""Logprobs of an answer in the two forms that OpenAI has; they are the model's own, before any sampling parameter."""

from collections.abc import Sequence
from math import inf

from ..text.text_sequence import SequenceOutput, Token
from ..text.tokenizer import Tokenizer
from .schema import CompletionLogprobs, TokenLogprob, TopLogprob

_REPLACEMENT = "\ufffd"  # shown for a part of a character


def chat_logprobs(output: SequenceOutput, start: int, stop: int, top: int, tokenizer: Tokenizer) -> list[TokenLogprob]:
    """Of tokens ``start`` to ``stop``; special ones are no part of the answer.

    Args:
        top: how many of the best tokens to show; the engine may know more, if there is a tie.
    """

    def bytes_of(token: Token) -> list[int]:
        # A token that ends a character has all of it as its text.
        part = _REPLACEMENT in tokenizer.token_text(token.id)
        return list(tokenizer.token_bytes(token.id) if part else token.text.encode())

    found = []
    for position in range(start, stop):
        token = output.tokens[position]
        if not token.special:
            best = [TopLogprob(one.text, one.logprob, bytes_of(one)) for one in _best(output, position, top)]
            found.append(TokenLogprob(token.text, token.logprob, bytes_of(token), best))
    return found


class CompletionLogprobsBuilder:
    """Parallel lists for the tokens of one completion, which may come in pieces."""

    def __init__(self, top: int, tokenizer: Tokenizer) -> None:
        """``top``: how many of the best tokens to show beside the one that stands there."""
        self._top = top
        self._tokenizer = tokenizer
        self._offset = 0  # characters so far

    def prompt(self, tokens: Sequence[Token], best: Sequence[Sequence[Token]]) -> CompletionLogprobs:
        """Of an echoed prompt. Its first token has no logprob, and nothing else could have stood there.

        Args:
            tokens: with their logprobs.
            best: the best tokens in the place of each but the first; empty if none were asked for.
        """
        part = self._empty()
        for position, token in enumerate(tokens):
            listed = self._listed(token, best[position - 1]) if position and best else None
            self._add(part, token, listed, "" if token.special else token.text)
        return part

    def tokens(self, output: SequenceOutput, start: int, stop: int) -> CompletionLogprobs:
        """Of tokens ``start`` to ``stop``."""
        part = self._empty()
        for position in range(start, stop):
            token = output.tokens[position]
            if not token.special:
                best = _best(output, position, self._top)
                self._add(part, token, self._listed(token, best) if self._top else None, token.text)
        return part

    def _listed(self, token: Token, best: Sequence[Token]) -> dict[str, float | None]:
        """The best tokens and the one that stands there, by their texts; a text that two would share is made longer."""
        listed: dict[str, float | None] = {}
        for one in (token, *(one for one in best if one.id != token.id)):
            key = one.text
            if not key or _REPLACEMENT in key:
                key = "bytes:" + "".join(f"\\x{byte:02x}" for byte in self._tokenizer.token_bytes(one.id))
            listed[key if key not in listed else f"token_id:{one.id}"] = one.logprob
        order = sorted(listed.items(), key=lambda item: -inf if item[1] is None else -item[1])
        return dict(order)

    def _empty(self) -> CompletionLogprobs:
        return CompletionLogprobs([], [], [] if self._top else None, [])

    def _add(
        self,
        part: CompletionLogprobs,
        token: Token,
        best: dict[str, float | None] | None,
        shown: str,
    ) -> None:
        part.tokens.append(token.text)
        part.token_logprobs.append(token.logprob)
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
