"""Tokens of one sequence with their texts, up to where the text ends: what every generating route reads from."""

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from ..engine_client.remote_sequence import EngineError, RemoteSequence
from ..http.sse import shortest_float32
from .detokenizer import Detokenizer
from .stop_strings import StopStrings
from .tokenizer import Tokenizer

FinishReason = Literal["length", "eos_token", "stop_sequence"]


class Token(Struct, gc=False):
    """One generated token; ``logprob`` is null if it isn't finite."""

    id: int
    text: str
    logprob: float | None
    special: bool


class TextSequence:
    """Turns what the engine sends into tokens with text; ends the sequence at a stop string.

    Attributes:
        index: of the sequence within its request, from 0.
        finish_reason: None until the last token was taken. On routes that keep the stop string, as in TGI, a last
            allowed token is ``length`` and an end token ``eos_token`` even if a stop string ends there, too.
        generated_tokens: taken so far.
    """

    def __init__(
        self,
        index: int,
        remote: RemoteSequence,
        tokenizer: Tokenizer,
        stops: Sequence[str],
        keep_stop: bool,
        only_scores: bool = False,
    ) -> None:
        """See GenerationRequest.start."""
        self._only_scores = only_scores
        self._tokenizer = tokenizer
        self._special_tokens = tokenizer.special_tokens
        self._detokenizer = Detokenizer(tokenizer, remote.prompt_ids)
        self._stops = StopStrings(stops, keep_stop)
        self._keep_stop = keep_stop
        self._text: list[str] = []
        self.index = index
        self.remote = remote
        self.finish_reason: FinishReason | None = None
        self.generated_tokens = 0

    @property
    def generated_text(self) -> str:
        """Text of all tokens so far that are not special: exactly what a stream shows of them, joined."""
        return "".join(self._text)

    @property
    def stop_string(self) -> str | None:
        """The one that ended the text, None if none did."""
        return self._stops.which

    @property
    def shown_seed(self) -> int | None:
        """The seed that was used, None if nothing was drawn."""
        sampling = self.remote.sampling
        return None if sampling.greedy else sampling.seed

    def take(self) -> "SequenceOutput | None":
        """What came since the last call, None if nothing did. Raises EngineError."""
        remote = self.remote
        part = remote.take()
        if part.start == part.stop:
            if remote.finish_reason is not None:
                raise EngineError("the sequence ended without a token")
            return None
        tokens: list[Token] = []
        texts: list[str] = []
        ended: FinishReason | None = remote.finish_reason
        for position in range(part.start, part.stop):
            token_id = remote.token_ids[position]
            piece = self._detokenizer.feed(token_id)
            special = token_id in self._special_tokens
            text = self._stops.feed_special(piece) if special else self._stops.feed(piece)
            texts.append(text)
            shown = text if self._keep_stop and not special else piece
            tokens.append(Token(token_id, shown, shortest_float32(remote.logprobs[position]), special))
            if self._stops.found:
                remote.abort()
                if not self._keep_stop or position + 1 < part.stop or ended is None:
                    ended = "stop_sequence"
                break
        if ended is not None and (held := self._stops.flush()):
            texts[-1] += held
        self.finish_reason = ended
        if self._only_scores:
            return SequenceOutput(self, [], [""], [])
        self._text += texts
        self.generated_tokens += len(tokens)
        return SequenceOutput(self, tokens, texts, self._top_tokens(part.start, part.start + len(tokens)))

    def _top_tokens(self, start: int, stop: int) -> list[list[Token]]:
        remote = self.remote
        if not remote.top_ids:
            return []
        return [
            [self.token(*pair) for pair in zip(ids, logprobs, strict=True)]
            for ids, logprobs in zip(remote.top_ids[start:stop], remote.top_logprobs[start:stop], strict=True)
        ]

    def token(self, token_id: int, logprob: float) -> Token:
        """A token without its neighbours."""
        text = self._tokenizer.token_text(token_id)
        return Token(token_id, text, shortest_float32(logprob), token_id in self._special_tokens)


class SequenceOutput(Struct):
    """What came for one sequence at a time; the lists are parallel."""

    sequence: TextSequence
    tokens: list[Token]  # with their own text
    # Text that each token lets out: none while a stop string may be beginning, never that of a special token.
    texts: list[str]
    top_tokens: list[list[Token]]  # best first; empty if none were asked for
