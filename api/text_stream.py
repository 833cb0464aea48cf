"""Tokens of one generation with their texts, up to where the text ends: what every generating route reads from."""

from collections.abc import Sequence

from .detokenizer import Detokenizer
from .engine_client import EngineError, Generation
from .errors import ApiError, GenerationError, ValidationError
from .schema import FinishReason, Token
from .sse import shortest_float32
from .stop import StopStrings
from .tokenizer import Tokenizer


class TextStream:
    """Turns what the engine sends into tokens with text; ends the generation at a stop string.

    Attributes:
        finish_reason: None until the last token was returned. As in TGI, a last allowed token is ``length`` and an end
            token ``eos_token`` even if a stop string ends there, too.
        generated_tokens: returned so far.
    """

    def __init__(self, generation: Generation, tokenizer: Tokenizer, stops: Sequence[str]) -> None:
        self._generation = generation
        self._special_tokens = tokenizer.special_tokens
        self._detokenizer = Detokenizer(tokenizer, generation.prompt_ids)
        self._stops = StopStrings(stops)
        self._text: list[str] = []
        self.finish_reason: FinishReason | None = None
        self.generated_tokens = 0

    @property
    def generation(self) -> Generation:
        return self._generation

    @property
    def generated_text(self) -> str:
        """Text of all tokens so far that are not special: exactly what a stream shows of them, joined."""
        return "".join(self._text)

    async def next(self, timeout_s: float) -> list[Token]:
        """The tokens that came since the last call, none if the time is over; safe to cancel.

        Raises ApiError if the engine failed.
        """
        try:
            token_ids, logprobs = await self._generation.next(timeout_s)
        except EngineError as error:
            raise _api_error(error) from error
        tokens = []
        finish_reason: FinishReason | None = self._generation.finish_reason
        for position, (token_id, logprob) in enumerate(zip(token_ids, logprobs, strict=True), start=1):
            text = self._detokenizer.feed(token_id)
            end = self._stops.feed(text)
            if end is not None:
                text = text[:end]
            special = token_id in self._special_tokens
            if not special:
                self._text.append(text)
            tokens.append(Token(token_id, text, shortest_float32(logprob), special))
            if end is not None:
                self._generation.abort()
                if position < len(token_ids) or finish_reason is None:
                    finish_reason = "stop_sequence"
                break
        self.finish_reason = finish_reason
        self.generated_tokens += len(tokens)
        return tokens


def _api_error(error: EngineError) -> ApiError:
    return ValidationError(str(error)) if error.error_type == "validation" else GenerationError(str(error))
