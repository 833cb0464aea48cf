"""Bodies of the native routes: what clients send and get, fields in the order in which they are written.

Every optional field takes null, which older clients send for each field they don't set. Ranges here are those of the
integer types; what a value may mean is checked in validation.py, with TGI's own sentences.
"""

from msgspec import UNSET, Struct, UnsetType

from ..generation.scheduling import SchedulingFields
from ..http.json_body import I32, U32, Size
from ..text.grammar import AnyGrammar
from ..text.text_sequence import FinishReason, Token


class GenerateParameters(SchedulingFields):
    """How to generate; null or absent: the default. The last ones are not TGI's."""

    best_of: Size | None = None
    temperature: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    top_k: I32 | None = None
    top_p: float | None = None
    typical_p: float | None = None
    do_sample: bool | None = None
    max_new_tokens: U32 | None = None
    return_full_text: bool | None = None
    stop: str | list[str] | None = None
    truncate: Size | None = None
    watermark: bool | None = None
    details: bool | None = None
    decoder_input_details: bool | None = None
    seed: Size | None = None
    top_n_tokens: U32 | None = None
    grammar: AnyGrammar | None = None
    adapter_id: str | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[int, float] | None = None  # added to the logit of each token id
    ignore_eos: bool | None = None
    min_new_tokens: U32 | None = None

    @property
    def stops(self) -> list[str]:
        """The stop strings."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


class GenerateRequest(Struct):
    """Body of /generate and /generate_stream. Without ``parameters`` at all, tokens are sampled; with them, only
    where they ask for it (as in TGI)."""

    inputs: str
    parameters: GenerateParameters | None = None


class CompatGenerateRequest(GenerateRequest):
    """Body of POST /. Who sends one of the last fields wants no text, and is refused."""

    stream: bool | None = None
    normalize: bool | None = None
    prompt_name: str | None = None
    dimensions: int | None = None


class StreamDetails(Struct, gc=False):
    """End of a stream, if details were asked for."""

    finish_reason: FinishReason
    generated_tokens: int
    seed: int | None  # null: greedy
    input_length: int


class StreamResponse(Struct, gc=False):
    """One event of a stream; ``generated_text`` and ``details`` only in the last."""

    index: int  # from 1
    token: Token
    top_tokens: list[Token] | UnsetType = UNSET  # absent: none were asked for
    generated_text: str | None = None
    details: StreamDetails | None = None


class PrefillToken(Struct, gc=False):
    """One prompt token."""

    id: int
    text: str
    logprob: float | None


class BestOfSequence(Struct):
    """One of the sequences that were not the best."""

    generated_text: str
    finish_reason: FinishReason
    generated_tokens: int
    seed: int | None
    prefill: list[PrefillToken]
    tokens: list[Token]
    top_tokens: list[list[Token]] | UnsetType = UNSET


class Details(Struct):
    """How a text was generated."""

    finish_reason: FinishReason
    generated_tokens: int
    seed: int | None  # null: greedy
    prefill: list[PrefillToken]  # empty: not asked for
    tokens: list[Token]
    best_of_sequences: list[BestOfSequence] | UnsetType = UNSET  # absent: there was one
    top_tokens: list[list[Token]] | UnsetType = UNSET  # absent: none were asked for


class GenerateResponse(Struct):
    """Answer without streaming."""

    generated_text: str
    details: Details | UnsetType = UNSET


class Info(Struct):
    """Answer of GET /info."""

    model_id: str
    model_sha: str | None
    model_pipeline_tag: str | None
    max_concurrent_requests: int
    max_best_of: int
    max_stop_sequences: int
    max_input_tokens: int
    max_total_tokens: int
    validation_workers: int
    max_client_batch_size: int
    router: str
    version: str  # of the TGI that this server answers as
    sha: str | None
    docker_label: str | None
    headwater_version: str
