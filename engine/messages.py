"""What API workers and the engine say to each other: msgspec Structs, one tagged union each way.

The engine owns tokens, the API owns text: ids go in, ids come out. A worker keeps every Submit it sent and the
tokens it got, so that it can send the same request again to a restarted engine with ``emitted_ids`` as prefix.
No torch here: the API imports this module.
"""

from typing import Literal

from msgspec import Struct

FinishReason = Literal["length", "eos_token"]


class SamplingParams(Struct, frozen=True, array_like=True, gc=False):
    """How to choose the tokens of one sequence; every default resolved, the seed drawn at admission."""

    max_new_tokens: int
    greedy: bool
    temperature: float = 1.0
    top_k: int = 0  # 0: off
    top_p: float = 1.0  # 1.0: off
    repetition_penalty: float = 1.0  # over prompt and generated tokens
    seed: int = 0  # u64
    stop_token_ids: tuple[int, ...] = ()  # the sequence ends after one of these


class Submit(Struct, tag="submit", array_like=True, gc=False):
    """Start a sequence. ``request_id`` is unique within the worker's connection.

    ``emitted_ids`` are tokens that an earlier engine already generated: they count towards max_new_tokens, and
    only what follows them is sent.
    """

    request_id: int
    prompt_ids: list[int]
    sampling: SamplingParams
    emitted_ids: list[int] = []


class Abort(Struct, tag="abort", array_like=True, gc=False):
    """Drop a sequence: the client has gone, or a stop string was found. Unknown ids are ignored."""

    request_id: int


ToEngine = Submit | Abort


class Hello(Struct, tag="hello", array_like=True, gc=False):
    """First frame on a connection: what the engine is and can do."""

    model_id: str
    device: str  # "cpu", "cuda: NVIDIA H100 ..."
    backend: str  # "cpu" or "triton"
    dtype: str  # "bfloat16", "float16" or "float32"
    vocab_size: int
    max_total_tokens: int  # prompt + generated tokens of one sequence
    max_sequences: int  # sequences in one step
    page_size: int  # tokens
    num_pages: int  # usable ones


class Stats(Struct, array_like=True, gc=False):
    """State of the engine after a step; counters run from the engine's start."""

    steps: int
    running: int  # sequences
    waiting: int  # sequences
    free_pages: int
    prompt_tokens: int  # counter: prompt tokens computed
    generated_tokens: int  # counter
    preemptions: int  # counter
    aborted: int  # counter: sequences dropped before their end
    step_s: float  # duration of the last step, seconds
    time: float  # time.monotonic() at the end of the last step (one clock for all processes of a machine)


class Started(Struct, array_like=True, gc=False):
    """A sequence was scheduled for the first time."""

    request_id: int
    queue_s: float  # seconds from Submit to its first step


class Tokens(Struct, array_like=True, gc=False):
    """New tokens of one sequence, and its end if it ended."""

    request_id: int
    token_ids: list[int]
    logprobs: list[float]  # natural log, of the distribution the token was drawn from
    finish_reason: FinishReason | None = None


class Failed(Struct, array_like=True, gc=False):
    """A sequence that will get no (more) tokens."""

    request_id: int
    error: str
    error_type: Literal["validation", "generation"]


class Step(Struct, tag="step", array_like=True, gc=False):
    """All that one engine step has for one worker: one frame, never one per token. Sent without tokens as heartbeat."""

    stats: Stats
    started: list[Started] = []
    tokens: list[Tokens] = []
    failed: list[Failed] = []


FromEngine = Hello | Step
