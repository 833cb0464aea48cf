"""A row has the same bits alone, in company, in chunks, preempted and computed again: linears, and a whole engine."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch

from ....kernels import Linear, load_backend
from ....kernels.triton import pack_linear, quantize_linear
from ....kernels.triton.block_linear import BlockLinear
from ..blocks import made_up_blocks
from .interpreted import dots_in_steps
from .setup import Comparison, Results, Setup, Skipped, equal

if TYPE_CHECKING:
    from ....engine.engine import Engine
    from ....engine.messages import SamplingParams

    Answer = tuple[list[int], list[float]]  # tokens, and their logprobs
    Request = tuple[list[int], SamplingParams]

_TINY = {
    "architectures": ["LlamaForCausalLM"], "torch_dtype": "float16", "hidden_act": "silu", "vocab_size": 48,
    "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 64, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0, "tie_word_embeddings": True,
}  # fmt: skip
_LAYERS, _PAGE_SIZE = 2, 16
_DTYPES = (torch.bfloat16, torch.float16)  # of a GPU, and of the interpreter, which has no bf16


def _dots(setup: Setup) -> AbstractContextManager[None]:
    """In the interpreter as tensor cores sum them."""
    return nullcontext() if setup.device.type == "cuda" else dots_in_steps()


def check_exact_linears(setup: Setup) -> Results:
    """Rows of a large batch, and the same rows in smaller ones of each tile."""
    shapes = [(70, 1280, 261)] if setup.tiny else [(4096, 14336, 2048), (28672, 4096, 2048), (1032, 2048, 300)]
    for outputs, inputs, rows in shapes:
        x = setup.randn(rows, inputs)
        for name, linear in _linears(setup, outputs, inputs):
            with _dots(setup):
                whole = linear(x)
                for first, count in ((3, 1), (1, 8), (5, 16), (2, 20), (0, 33), (7, 70), (4, 200), (1, 260), (0, 1023)):
                    if first + count <= rows:
                        part = linear(x[first : first + count].clone())
                        what = f"{name} {inputs} -> {outputs}: {count} of {rows} rows"
                        yield equal(what, part, whole[first : first + count])


def _linears(setup: Setup, outputs: int, inputs: int) -> Iterator[tuple[str, Linear]]:
    weight, bias = setup.randn(outputs, inputs, seed=1), setup.randn(outputs, seed=2)
    if setup.dtype.itemsize == 2:  # the vendor's library has the others
        yield "linear", pack_linear(weight, bias)
    for dtype in (torch.int8, torch.float8_e4m3fn)[: 1 + setup.converts_fp8]:
        yield f"{str(dtype).removeprefix('torch.')} linear", quantize_linear(weight, bias, dtype)
    for kind in () if setup.tiny else ("Q4_K", "GPTQ", "Q6_K"):  # the interpreter takes smaller shapes, in the tests
        yield f"{kind} linear", BlockLinear([made_up_blocks(kind, outputs, inputs, setup.device)], bias, setup.device)


def check_exact_engine(setup: Setup) -> Results:
    """Tokens and logprobs of requests alone are those in company, in small chunks, from the cache, preempted, replayed.

    Raises Skipped.
    """
    with _dots(setup):
        yield from _check_engine(setup)


def _check_engine(setup: Setup) -> Results:
    try:
        from ....engine.messages import SamplingParams
    except ImportError as error:
        raise Skipped(f"the engine needs more than torch and triton: {error}") from error
    size, new = (1, 4) if setup.tiny else (30, 24)  # of prompts; tokens
    requests: list[Request] = [
        ([1 + 3 * i % 40 for i in range(30 * size)], SamplingParams(new, greedy=True)),
        ([2 + 5 * i % 40 for i in range(3 * size)], SamplingParams(new, greedy=False, seed=7, temperature=0.8)),
    ]
    others = [([i] * (1 + 5 * i), SamplingParams(new, greedy=False, seed=i)) for i in range(1 if setup.tiny else 30)]
    engine = _engine(setup, max_rows=64 * size)
    alone = [_run(engine, [request])[0] for request in requests]
    yield _same("in company", _run(engine, [*requests, *others]), alone)
    half = new // 2
    for request, (token_ids, logprobs) in zip(requests, alone, strict=True):
        yield _same("replayed", _run(engine, [request], token_ids[:half]), [(token_ids[half:], logprobs[half:])])
    small = _engine(setup, max_rows=8 * size, prefix_cache=True)
    yield _same("in chunks", _run(small, requests), alone)
    yield _same("from the cache", _run(small, requests[:1]), alone[:1])
    # Room for the prompts, and hardly more.
    cramped = _engine(setup, max_rows=64 * size, pages=sum(-(-len(prompt) // _PAGE_SIZE) for prompt, _ in requests))
    yield _same("preempted", _run(cramped, requests), alone)
    yield Comparison("engine: a sequence was preempted", float(cramped.stats().preemptions == 0), 0.0)


def _engine(setup: Setup, max_rows: int, prefix_cache: bool = False, pages: int = 1024) -> "Engine":
    """An engine of made-up weights that was not warmed up."""
    from msgspec.structs import replace

    from ....engine.engine import Engine
    from ....engine.runner import Runner
    from ..dry_run.models import SHAPES, load_shape

    shape = _TINY if setup.tiny else SHAPES["llama-3.1-8b"] | {"num_hidden_layers": _LAYERS}
    torch.manual_seed(0)
    backend = load_backend("triton")
    loaded = load_shape(
        shape, backend, setup.device,
        lambda size: torch.empty(size, dtype=_DTYPES[setup.tiny], device=setup.device).normal_(std=0.1),
        kv_cache_bytes=1 << 28, page_size=_PAGE_SIZE, max_batch_size=4 if setup.tiny else 64,
        max_total_tokens=48 if setup.tiny else 2048,
    )  # fmt: skip
    graph_rows = (1, 4) if setup.tiny else (1, 8, 64)
    limits = replace(loaded.limits(), max_rows=max_rows, graph_rows=graph_rows, num_pages=1 + pages)
    runner = Runner(loaded.model, backend, limits, loaded.dtypes, setup.device)
    return Engine(runner, limits, max_waiting=64, prefix_cache=prefix_cache)


def _run(engine: "Engine", requests: list["Request"], emitted_ids: Sequence[int] = ()) -> list["Answer"]:
    from ....engine.messages import Submit

    answers: list[Answer] = [([], []) for _ in requests]
    for request_id, (prompt_ids, sampling) in enumerate(requests):
        failed = engine.submit(0, Submit(request_id, prompt_ids, sampling, emitted_ids=list(emitted_ids)))
        assert failed is None, failed
    while engine.has_work:
        for step in engine.step().values():
            for tokens in step.tokens:
                answers[tokens.request_id][0].extend(tokens.token_ids)
                answers[tokens.request_id][1].extend(tokens.logprobs)
    return answers


def _same(name: str, got: list["Answer"], want: list["Answer"]) -> Comparison:
    return Comparison(f"engine: {name}", float(got[: len(want)] != want), 0.0)
