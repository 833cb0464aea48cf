"""What the engine is told at start. No torch here: the supervisor builds this from the command line.

A setting that has a flag says so beside its type: api/launch/flags.py makes options of these fields. A new flag is a
new field, and whoever reads it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from .messages import Adapter

C = TypeVar("C", bound=Struct)

MODEL, ADDRESS, LIMITS, ENGINE, SERVER = "Model", "Address and access", "Limits", "Engine", "Server"


@dataclass(frozen=True)
class Flag:
    """How a field is set on the command line.

    Attributes:
        group: in ``--help``.
        names: the first, in capitals, names its environment variable too.
        tgi: TGI has it, under the first name or the one given; False: it is ours, and so is its variable's prefix.
        env: its environment variables, if they aren't called so.
        min, max: bounds of a number.
        metavar: what stands for the value in ``--help``, if not its type.
    """

    group: str
    names: tuple[str, ...]
    help: str
    tgi: bool | str = True
    env: tuple[str, ...] = ()
    min: float | None = None
    max: float | None = None
    metavar: str | None = None
    hidden: bool = False


Quantization = Literal["int8", "fp8", "int4", "gptq", "awq", "compressed-tensors"]
KvCacheDtype = Literal["auto", "fp8_e4m3fn"]
DEFAULT_MAX_LORAS = 8
# Of three tokens in four that are right, three guesses are about the best whether rows cost much (a CPU) or little.
DRAFT_GUESSES = 3
_Dtype = Literal["bfloat16", "float16", "float32"]
ActivationDtype = Literal["bfloat16", "float16", "float32", "int8"]


class KVEventsConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Value of --kv-events-config: vLLM's, of the same names and defaults; kv_publisher.py.

    Attributes:
        endpoint: of the events, ``replay_endpoint``: of those of the last ``buffer_steps`` batches, again.
        hwm: messages that a slow subscriber may be behind; ``max_queue_size``: batches that may wait to be sent.
        event_format: not vLLM's: an event is an array, as vLLM's were until June 2026, or a map, as since then.
    """

    enable_kv_cache_events: bool = False
    publisher: Literal["null", "zmq"] | None = None
    endpoint: str = "tcp://*:5557"
    replay_endpoint: str | None = None
    buffer_steps: Annotated[int, Meta(ge=1)] = 10_000
    hwm: Annotated[int, Meta(ge=1)] = 100_000
    max_queue_size: Annotated[int, Meta(ge=1)] = 100_000
    topic: str = ""
    event_format: Literal["array", "map"] = "array"

    @property
    def publishes(self) -> bool:
        """Whether there is anything to do."""
        return self.enable_kv_cache_events and self.publisher != "null"


class EngineConfig(Struct, frozen=True, kw_only=True):
    """Settings of one engine process; None means: chosen from the hardware and printed at start."""

    model_dir: Path
    model_id: str  # what clients see
    socket: Path  # Unix socket the engine listens on
    index: int = 0  # replica number
    replicas: int = 1  # that share this machine's memory; its flag stands in api/config.py
    dtype: Annotated[
        _Dtype | None, Flag(MODEL, ("--dtype",), "Of weights, and of activations unless they have their own.")
    ] = None
    activation_dtype: Annotated[
        ActivationDtype | None,
        Flag(
            MODEL,
            ("--activation-dtype",),
            "Of activations; float32 beside bfloat16 weights is exact, and slower; int8 rounds what meets weights in "
            "blocks (cpu backend).",
            tgi=False,
        ),
    ] = None
    quantize: Annotated[
        Quantization | None,
        Flag(
            MODEL,
            ("--quantize",),
            "int8, fp8, int4: round weights to 8 or 4 bits on load. gptq, awq, compressed-tensors: the checkpoint must "
            "be of that form; it is found without a flag.",
            metavar="int8|fp8|int4|...",
        ),
    ] = None
    device: Annotated[
        Literal["cpu", "cuda"] | None, Flag(ENGINE, ("--device",), "A GPU if there is one.", tgi=False)
    ] = None
    backend: Annotated[
        Literal["cpu", "triton"] | None, Flag(ENGINE, ("--backend",), "Kernels; the device's own.", tgi=False)
    ] = None
    exact: Annotated[
        bool,
        Flag(
            ENGINE,
            ("--exact/--no-exact",),
            "The same tokens whatever the batch. Without it the GPU vendor's linears are used (triton backend), whose "
            "last bit depends on the number of rows; a CPU is exact either way.",
            tgi=False,
        ),
    ] = True
    threads: Annotated[
        int | None,
        Flag(
            ENGINE, ("--threads",),
            "Of the cpu backend; one for each physical core in the affinity mask, at most the cgroup's quota.",
            tgi=False, min=1,
        ),
    ] = None  # fmt: skip
    numa: Annotated[
        Literal["isolate", "distribute"] | None,
        Flag(
            ENGINE, ("--numa",),
            "Of the cpu backend: stay on one node of memory, or spread memory over all; isolate where it fits.",
            tgi=False,
        ),
    ] = None  # fmt: skip
    cpu_features: Annotated[
        str | None,
        Flag(
            ENGINE, ("--cpu-features",),
            "Of the cpu backend: an instruction set that is less than the processor has, such as avx2.", tgi=False,
        ),
    ] = None  # fmt: skip
    num_shard: int = 1  # devices that the model is divided among; its flags stand in api/cli.py
    shard_invariant: Annotated[
        bool,
        Flag(
            ENGINE,
            ("--shard-invariant/--no-shard-invariant",),
            "With one device, sums in the order that several have: the tokens are those of any --num-shard.",
            tgi=False,
        ),
    ] = False
    page_size: int = 16  # tokens
    kv_cache_bytes: Annotated[
        int | None, Flag(ENGINE, ("--kv-cache-bytes",), "Size of the KV cache.", tgi=False, min=1)
    ] = None
    cuda_memory_fraction: Annotated[
        float,
        Flag(
            ENGINE,
            ("--cuda-memory-fraction",),
            "Of a GPU's memory, the most that weights, steps and KV cache take together; --kv-cache-bytes wins.",
            min=0.01,
            max=1.0,
        ),
    ] = 1.0
    kv_cache_dtype: Annotated[
        KvCacheDtype,
        Flag(
            ENGINE,
            ("--kv-cache-dtype",),
            "fp8_e4m3fn: keys and values in 8 bits, twice the tokens in the same memory, with the checkpoint's scales "
            "if it has any. auto: as activations.",
            metavar="auto|fp8_e4m3fn",
        ),
    ] = "auto"
    max_total_tokens: int | None = None  # of one sequence; its flag stands in api/config.py
    max_batch_prefill_tokens: Annotated[
        int | None, Flag(ENGINE, ("--max-batch-prefill-tokens",), "Tokens of one step.", min=1)
    ] = None
    max_batch_size: Annotated[int | None, Flag(ENGINE, ("--max-batch-size",), "Sequences of one step.", min=1)] = None
    max_waiting: int = 4096  # sequences
    json_output: bool = False  # of logs; its flag stands in api/config.py
    prefix_cache: Annotated[
        bool,
        Flag(
            ENGINE,
            ("--prefix-cache/--no-prefix-cache",),
            "Keep what was computed for prompts and answers that begin alike.",
            tgi="PREFIX_CACHING=0",
            env=("PREFIX_CACHING", "USE_PREFIX_CACHING"),
        ),
    ] = True
    prefix_cache_dir: Annotated[
        Path | None,
        Flag(
            ENGINE,
            ("--prefix-cache-dir",),
            "Where what the prefix cache has no memory for is kept, and found after a restart.",
            tgi=False,
        ),
    ] = None
    prefix_cache_dir_bytes: Annotated[
        int, Flag(ENGINE, ("--prefix-cache-dir-bytes",), "Of the files there, at most.", tgi=False, min=1)
    ] = 16 << 30
    kv_events_config: Annotated[
        KVEventsConfig | None,
        Flag(
            ENGINE,
            ("--kv-events-config",),
            'Tell over ZeroMQ what the prefix cache gains and loses, vLLM\'s way: {"enable_kv_cache_events": true, '
            '"endpoint": "tcp://*:5557"}',
            tgi=False,
            metavar="JSON",
        ),
    ] = None
    speculate: Annotated[
        int | None,
        Flag(
            ENGINE,
            ("--speculate",),
            "Tokens guessed in each step, from the text so far (0 unless said) or by --speculative-model (3); 0: none.",
            min=0,
        ),
    ] = None
    max_loras: Annotated[
        int | None,
        Flag(
            ENGINE,
            ("--max-loras",),
            "Adapters that may be loaded at a time; 0: none. 8, or as many as --lora-adapters has; 0 without that.",
            tgi=False,
            min=0,
        ),
    ] = None
    adapters: tuple[Adapter, ...] = ()  # loaded at start
    speculative_model: Annotated[
        Path | None,
        Flag(
            ENGINE,
            ("--speculative-model",),
            "A small model of the same vocabulary that makes the guesses: directory, .gguf file or Hub id.",
            tgi=False,
        ),
    ] = None
    speculate_always: bool = False  # guess with it even where that is slower: for tests and measurements
    # Of an engine that follows one that died: as many pages as that had, so that whatever it took still fits.
    num_pages: int | None = None
    crashed: tuple[int, ...] = ()  # messages.Hello.crashed
    killed: tuple[int, ...] = ()  # messages.Hello.killed
    faults: Annotated[
        tuple[str, ...], Flag(ENGINE, ("--inject-faults",), "For tests: engine/faults.py.", tgi=False, hidden=True)
    ] = ()


def max_guesses(config: EngineConfig) -> int:
    """Tokens guessed for a sequence in a step."""
    if config.speculate is not None:
        return config.speculate
    return DRAFT_GUESSES if config.speculative_model is not None else 0


def max_adapters(config: EngineConfig) -> int:
    """How many may be loaded at a time."""
    if config.max_loras is not None:
        return config.max_loras
    return max(DEFAULT_MAX_LORAS, len(config.adapters)) if config.adapters else 0


def encode_config(config: Struct) -> bytes:
    """One JSON line: how a child process gets its settings, as the first line of its standard input."""
    return msgspec.json.encode(config, enc_hook=str) + b"\n"


def decode_config(line: bytes, kind: type[C]) -> C:
    """The settings in the line that encode_config wrote. Raises msgspec.DecodeError."""
    return msgspec.json.decode(line, type=kind, dec_hook=lambda to, value: to(value))
