"""From a config to an engine that is ready: backend, weights, warm-up, and a log of what was chosen and why."""

import logging
import math
import os
import time
from dataclasses import dataclass

import torch

from ..kernels import Backend, BackendName, Unsupported
from .adapter_set import AdapterSet, load_at_start
from .checkpoint.errors import ModelError
from .config import EngineConfig, KVEventsConfig, max_guesses
from .cores import usable_cores
from .cuda import check_compiler, errors_as_advice, unseen_gpu
from .engine import Engine
from .grammar_compiler import GrammarCompiler
from .kv_events import KVEvents
from .limits import Limits, choose_limits
from .memory import measure_room
from .messages import Hello, SamplingParams, Submit
from .model_parts import plan_model
from .model_step import Capture
from .models.config import ModelConfig
from .models.decoder import DecoderModel
from .models.dtypes import Dtypes, kv_cache_name
from .models.kv_cache import page_bytes
from .page_files import PageFiles
from .page_kind import page_kind
from .page_store import PageStore
from .runner import Runner
from .shards.memory import resident_bytes
from .shards.messages import ShardLoaded
from .shards.ranks import Ranks, log_loaded
from .speculation.guesser import Guesser, NgramGuesser
from .speculation.load import LoadedDraft, load_draft

_CPU_WARM_UP_ROWS = 16  # its kernels have no variants for row counts; on a GPU the largest step shows that it fits


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    """What an engine is made of, whatever its sizes. Without a compiler it has no grammars."""

    config: EngineConfig
    model: DecoderModel
    backend: Backend
    dtypes: Dtypes
    device: torch.device
    draft: LoadedDraft | None
    compiler: GrammarCompiler | None
    adapters: AdapterSet | None
    ranks: Ranks | None = None  # the others, if there are any

    def limits(self, measured_bytes: float | None = None) -> Limits:
        """See choose_limits."""
        draft_page_bytes = self.draft.page_bytes if self.draft else 0
        return choose_limits(
            self.config, self.model.config, self.dtypes.pages, self.device, draft_page_bytes, measured_bytes
        )

    def start(self, limits: Limits) -> Engine:
        """An engine of that size, warmed up. Raises ModelError."""
        config = self.config
        capture: Capture = self.backend.capture
        if self.ranks is not None:
            self.ranks.begin(limits)
            capture = self.ranks.recording(capture)
        try:
            runner = Runner(self.model, self.backend, limits, self.dtypes, self.device, capture)
        except Unsupported as error:
            raise ModelError(f"{config.model_id}: {error}") from error
        if self.ranks is not None:
            self.ranks.wait_ready()
        engine = Engine(
            runner, limits, config.max_waiting, compiler=self.compiler, prefix_cache=config.prefix_cache,
            guesser=_guesser(config, limits, self.draft), adapters=self.adapters, ranks=self.ranks,
        )  # fmt: skip
        rows = limits.max_rows if self.device.type == "cuda" else _CPU_WARM_UP_ROWS
        warm_up(engine, rows, limits.max_total_tokens, max_guesses(config))
        return engine

    @property
    def page_bytes(self) -> int:
        """Of a page in the caches of the model and of its draft."""
        own = page_bytes(self.model.config, self.config.page_size, self.dtypes.pages)
        return own + (self.draft.page_bytes if self.draft else 0)

    def sized(self) -> Limits:
        """The limits to serve with: on a GPU those that its memory allows, measured."""
        if self.device.type != "cuda" or self.config.kv_cache_bytes is not None:
            return self.limits()
        fraction = self.config.cuda_memory_fraction
        at_most = self.limits(math.inf)
        return self.limits(measure_room(at_most, self.page_bytes, fraction, self.start, self.backend, self.device))


def start_engine(config: EngineConfig) -> tuple[Engine, Hello]:
    """Load and warm up. Raises ModelError."""
    begin = time.monotonic()
    if config.device is None and (reason := unseen_gpu()) is not None:
        logger.warning("%s", reason)
    if config.device != "cpu" and torch.cuda.is_available():
        check_compiler()
    with errors_as_advice(config.model_id):
        return _start(config, begin)


def _start(config: EngineConfig, begin: float) -> tuple[Engine, Hello]:
    plan = plan_model(config)
    model_config, backend, dtypes, device = plan.model, plan.backend, plan.dtypes, plan.device
    ranks = Ranks(config) if config.num_shard > 1 else None
    if plan.backend_name == "cpu":
        _compile_ahead(dtypes, config.threads or usable_cores())
    draft = None
    if config.speculative_model is not None:
        if max_guesses(config):
            draft = load_draft(config, model_config, backend, device)
        else:
            logger.info("--speculate 0: no guesses, and the draft model is not loaded")
    model = plan.load(0, None if ranks is None else ranks.memory)
    if config.activation_dtype == "int8" and not model.has_blocks:
        raise ModelError(
            f"--activation-dtype int8: {config.model_id} has no weights in blocks of 2 to 8 bits beside it"
        )
    made = time.monotonic()
    if ranks is not None:
        log_loaded(0, ShardLoaded(model.linear_bytes, resident_bytes(), made - begin))
        ranks.wait_loaded()
    if device.type == "cpu":
        torch.set_num_threads(1)  # it has nothing to do in steps that is worth waking others for
    compiler = GrammarCompiler(config.model_dir, model_config.vocab_size)
    loaded = Loaded(config, model, backend, dtypes, device, draft, compiler, _adapters(config, model, ranks), ranks)
    logger.info("warming up")
    limits = loaded.sized()
    engine = loaded.start(limits)
    if config.prefix_cache_dir is not None and config.prefix_cache:
        keep_pages(engine, config, dtypes, backend, plan.max_positions)
    if config.kv_events_config is not None and config.kv_events_config.publishes:
        publish_events(engine, config.kv_events_config, config)
    ready = time.monotonic()

    hello = _hello(config, model_config, limits, dtypes, device, plan.backend_name)
    _log_choices(hello, model_config, plan.quantize or model_config.stored_form)
    if dtypes.block_rows == torch.int8:
        logger.info("rows are rounded to int8 before linears whose weights are in blocks, but for the head")
    for reason in (*model_config.notes, *limits.reasons, *([draft.reason(config, limits)] if draft else [])):
        logger.info("%s", reason)
    logger.info("ready: weights %.1f s, warm-up %.1f s%s", made - begin, ready - made, _compiled(device))
    return engine, hello


def _hello(
    config: EngineConfig, model: ModelConfig, limits: Limits, dtypes: Dtypes, device: torch.device, backend: BackendName
) -> Hello:
    return Hello(
        model_id=config.model_id,
        device=f"cuda: {torch.cuda.get_device_name(device)}" if device.type == "cuda" else "cpu",
        backend=backend,
        dtype=config.dtype or model.dtype,
        vocab_size=model.vocab_size,
        max_total_tokens=limits.max_total_tokens,
        max_sequences=limits.max_sequences,
        page_size=limits.page_size,
        num_pages=limits.num_pages - 1,
        prefix_cache=config.prefix_cache,
        kv_cache_dtype=kv_cache_name(dtypes.pages),
        max_logit_bias=limits.max_logit_bias,
        pid=os.getpid(),
        crashed=config.crashed,
        killed=config.killed,
    )


def _compiled(device: torch.device) -> str:
    if device.type != "cpu":
        return ""
    from ..kernels.cpu.compiled import compiling

    return f", of it {compiling.count} kernels compiled" if compiling.count else ""


def _guesser(config: EngineConfig, limits: Limits, draft: LoadedDraft | None) -> Guesser | None:
    if draft is not None:
        return draft.guesser(config, limits)
    return NgramGuesser(most) if (most := max_guesses(config)) else None


def _adapters(config: EngineConfig, model: DecoderModel, ranks: Ranks | None) -> AdapterSet | None:
    if model.adapters is None:
        return None
    adapters = AdapterSet(model.adapters, ranks)
    load_at_start(adapters, config.adapters, config.socket)
    return adapters


def _log_choices(hello: Hello, model: ModelConfig, weights: str | None) -> None:
    """``weights``: how they are quantised, if they are."""
    rounded = f" with {weights} weights" if weights else ""
    what = f"{model.architecture}, {hello.dtype}{rounded} on {hello.device}, {hello.backend} kernels"
    logger.info("%s: %s", hello.model_id, what)


def _compile_ahead(dtypes: Dtypes, threads: int) -> None:
    """What takes longest, beside the loading; the rest is compiled when it is first needed."""
    from ..kernels.cpu.ahead import compile_ahead

    started = compile_ahead(dtypes.rows, dtypes.pages, threads - 1)
    if started:
        logger.info("the first start with this processor and version: %d more processes compile kernels", started)


def warm_up(engine: Engine, max_rows: int, max_total_tokens: int, guesses: int) -> None:
    """Compile or load every kernel variant: prompts of up to ``max_rows`` rows, then decoding, with guesses if any.

    Greedy, sampled, and both in one batch: the sampler has a variant for one row and one for several; a GPU has one for
    the parameters that are rarely used.
    """
    new_tokens = min(2 + guesses, max_total_tokens - 1)
    prompt = [0] * min(max_rows, max_total_tokens - new_tokens)
    both = (
        SamplingParams(new_tokens, greedy=True),
        SamplingParams(new_tokens, greedy=False, top_k=5, top_p=0.5, repetition_penalty=1.1),
    )
    rare = SamplingParams(new_tokens, greedy=False, min_p=0.5, top_n=1)
    for batch in (both[:1], both[1:], both, (rare,)):
        for request_id, sampling in enumerate(batch):
            failed = engine.submit(-1, Submit(request_id, prompt, sampling))
            assert failed is None, failed
        while engine.has_work:
            engine.step()
    engine.check()
    engine.reset_counters()


def keep_pages(engine: Engine, config: EngineConfig, dtypes: Dtypes, backend: Backend, max_positions: int) -> None:
    """Give the engine's prefix cache a directory; the log says what it has. Raises ModelError."""
    directory = config.prefix_cache_dir
    assert directory is not None
    try:
        kind = page_kind(config, dtypes, backend, max_positions, directory)
        files = PageFiles(directory, kind, config.prefix_cache_dir_bytes)
    except OSError as error:
        raise ModelError(f"--prefix-cache-dir {directory}: {error.strerror or error}") from error
    engine.keep(PageStore(files, engine.runner.cache, backend))
    logger.info("prefix cache: up to %.1f GiB in %s", config.prefix_cache_dir_bytes / 2**30, directory)


def publish_events(engine: Engine, wanted: KVEventsConfig, config: EngineConfig) -> None:
    """Let the engine tell of its prefix cache; the log says where. Raises ModelError."""
    from .kv_publisher import ZmqPublisher  # its package is an extra

    publisher = ZmqPublisher(wanted, config.index)
    engine.publish(KVEvents(publisher, config.page_size))
    logger.info("kv events: at %s", publisher.endpoint)
