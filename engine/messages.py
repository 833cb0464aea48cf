"""What API workers and the engine say to each other: msgspec Structs, one tagged union each way.

The engine owns tokens, the API owns text: ids go in, ids come out. A worker keeps every Submit it sent and the
tokens it got, so that it can send the same request again to a restarted engine with ``emitted_ids`` as prefix.
No torch here: the API imports this module.
"""

import math
from typing import Literal

from msgspec import Struct

MAX_TOP_N = 20  # best tokens that the engine lists beside a token

FinishReason = Literal["length", "eos_token"]
# overloaded: the waiting queue is full; timeout: the sequence's own time was over.
ErrorType = Literal["validation", "generation", "overloaded", "timeout"]


class Grammar(Struct, frozen=True, array_like=True, gc=False):
    """What the text of a sequence has to match."""

    kind: Literal["json_schema", "regex", "lark"]
    text: str  # the schema as JSON, the regular expression, or the grammar in llguidance's dialect of Lark


class SamplingParams(Struct, frozen=True, array_like=True, gc=False):
    """How to choose the tokens of one sequence; every default resolved, the seed drawn at admission.

    The order in which they apply is that of kernels.sampling_batch.SamplingBatch.
    """

    max_new_tokens: int
    greedy: bool
    temperature: float = 1.0
    top_k: int = 0  # 0: off
    top_p: float = 1.0  # 1.0: off
    repetition_penalty: float = 1.0  # over prompt and generated tokens
    seed: int = 0  # u64
    stop_token_ids: tuple[int, ...] = ()  # the sequence ends after one of these; empty: it ignores end of sequence
    min_p: float = 0.0  # 0.0: off
    typical_p: float = 1.0  # 1.0: off
    frequency_penalty: float = 0.0  # TGI's: times a token's share of prompt and output
    output_frequency_penalty: float = 0.0  # OpenAI's: times its occurrences in the output
    presence_penalty: float = 0.0  # OpenAI's: for tokens that occur in the output
    logit_bias: tuple[tuple[int, float], ...] = ()  # (token id, added to its logit), ascending by id, each id once
    min_new_tokens: int = 0  # until then no stop token is drawn
    grammar: Grammar | None = None
    top_n: int = 0  # best tokens wanted beside each drawn one, at most MAX_TOP_N
    raw_logprobs: bool = False  # logprobs of the model's own distribution, not of the processed one
    prompt_logprobs: bool = False  # of each prompt token but the first, once, before the first new token
    prompt_top_n: int = 0  # best tokens wanted beside each of these, at most MAX_TOP_N
    adapter: str | None = None  # whose tokens these are; None: the model's own


class Scheduling(Struct, frozen=True, array_like=True, gc=False):
    """When a sequence runs, until when, and with whom it shares what was computed.

    Times are those of time.monotonic(), one clock for all processes of a machine: a sequence that goes on in another
    engine keeps its place and its deadline.
    """

    priority: int = 0  # lower runs earlier; queue_order.py
    cache_salt: str = ""  # prompts share pages of the prefix cache with those of an equal one
    arrival: float | None = None  # of the request; None: when the engine gets it
    deadline: float = math.inf  # the sequence fails if it isn't over by then, running or not


USUAL = Scheduling()


class Submit(Struct, tag="submit", array_like=True, gc=False):
    """Start a sequence. ``request_id`` is unique within the worker's connection.

    ``emitted_ids`` are tokens that an earlier engine already generated: they count towards max_new_tokens, and
    only what follows them is sent.
    """

    request_id: int
    prompt_ids: list[int]
    sampling: SamplingParams
    emitted_ids: list[int] = []
    scheduling: Scheduling = USUAL
    replayed: bool = False  # an earlier engine had taken it, so it isn't refused because too many wait
    suspect: bool = False  # earlier engines died at work on it: it runs when no other suspect does


class Abort(Struct, tag="abort", array_like=True, gc=False):
    """Drop a sequence: the client has gone, or a stop string was found. Unknown ids are ignored."""

    request_id: int


class LoadAdapter(Struct, tag="load", array_like=True, gc=False):
    """Load what PEFT wrote to a directory. Answered by AdapterAnswer. ``request_id`` is the worker's, as of Submit."""

    request_id: int
    name: str
    path: str


class UnloadAdapter(Struct, tag="unload", array_like=True, gc=False):
    """Take no more sequences for an adapter, and forget it after the last. Answered by AdapterAnswer."""

    request_id: int
    name: str


ToEngine = Submit | Abort | LoadAdapter | UnloadAdapter


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
    prefix_cache: bool = True
    kv_cache_dtype: str = "bfloat16"  # or "float16", "float32", "fp8_e4m3fn"
    max_logit_bias: int = 1024  # entries of one sequence's logit_bias
    pid: int = 0  # of the engine
    connection: int = -1  # this one's number, which names the worker in the engine's flight record
    crashed: tuple[int, ...] = ()  # pids of engines before this one that nobody ended from outside
    killed: tuple[int, ...] = ()  # of those that were killed, perhaps by the kernel, for their memory


class DiskStats(Struct, frozen=True, array_like=True, gc=False):
    """Pages of the prefix cache on disk; counters from the engine's start."""

    saved: int = 0
    dropped: int = 0  # not saved: too many were on their way
    failed: int = 0  # the disk didn't take them
    loaded: int = 0


NO_DISK = DiskStats()


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
    cached_pages: int = 0  # free ones that hold a known prefix; part of ``free_pages``
    cached_tokens: int = 0  # counter: prompt tokens found in the prefix cache instead of computed
    drafted_tokens: int = 0  # counter: tokens guessed by speculation
    accepted_tokens: int = 0  # counter: guesses that were right
    prompt_steps: int = 0  # counter: of ``steps``, those that computed prompt tokens
    steps_done: int = 0  # counter: steps whose tokens were read; one fewer than ``steps`` while one is under way
    prompt_steps_done: int = 0  # counter: of these, those that computed prompt tokens
    max_tokens: int = 0  # to which the running sequences may grow, prompts included
    expired_waiting: int = 0  # counter: sequences whose deadline came before their first step
    expired_running: int = 0  # counter: and after it
    disk: DiskStats = NO_DISK
    kv_events_dropped: int = 0  # counter: batches of the prefix cache's events that weren't sent


class Started(Struct, array_like=True, gc=False):
    """A sequence was scheduled for the first time."""

    request_id: int
    queue_s: float  # seconds from Submit to its first step
    cached_tokens: int = 0  # of its prompt, found in the prefix cache


class PromptScores(Struct, array_like=True, gc=False):
    """What the model thought of prompt tokens 1, 2, ...: the first has nothing before it. Natural logs, raw."""

    logprobs: list[float] = []
    top_ids: list[list[int]] = []  # of each token the best ones in its place, best first; empty if none were asked for
    top_logprobs: list[list[float]] = []


class PromptLogprobs(Struct, array_like=True, gc=False):
    """The scores of a prompt; sent before the first token to who asked for them."""

    request_id: int
    scores: PromptScores


class Tokens(Struct, array_like=True, gc=False):
    """New tokens of one sequence, and its end if it ended."""

    request_id: int
    token_ids: list[int]
    logprobs: list[float]  # natural log; of the distribution the token was drawn from, or raw if that was asked for
    finish_reason: FinishReason | None = None
    # Of each token the best ones, best first, ties at the cut-off included; empty if none were asked for.
    top_ids: list[list[int]] = []
    top_logprobs: list[list[float]] = []


class Failed(Struct, array_like=True, gc=False):
    """A sequence that will get no (more) tokens."""

    request_id: int
    error: str
    error_type: ErrorType


class Step(Struct, tag="step", array_like=True, gc=False):
    """All that one engine step has for one worker: one frame, never one per token. Sent without tokens as heartbeat."""

    stats: Stats
    started: list[Started] = []
    tokens: list[Tokens] = []
    failed: list[Failed] = []
    prompts: list[PromptLogprobs] = []


AdapterError = Literal["invalid", "unknown"]  # unknown: there is none of that name


class Adapter(Struct, frozen=True, array_like=True, gc=False):
    """A name that requests may use, and the directory that PEFT wrote."""

    name: str
    path: str


class AdapterList(Struct, tag="adapters", array_like=True, gc=False):
    """Those that sequences may name from now on: after Hello, and to every worker when it changes.

    ``max_adapters`` is 0 where there can be none.
    """

    adapters: tuple[Adapter, ...]
    max_adapters: int


class AdapterAnswer(Struct, tag="adapter", array_like=True, gc=False):
    """What became of a LoadAdapter or UnloadAdapter; comes after the list that it changed."""

    request_id: int
    error: str | None = None
    error_type: AdapterError | None = None


FromEngine = Hello | Step | AdapterList | AdapterAnswer
