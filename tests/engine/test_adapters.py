"""Adapters (LoRA) of PEFT: the tokens that PEFT gives, whoever shares the batch."""

import threading
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaForCausalLM, MixtralConfig, Qwen2MoeConfig

from headwater.engine.adapter_set import Requester
from headwater.engine.checkpoint.errors import ModelError
from headwater.engine.checkpoint.peft import read_peft_config
from headwater.engine.engine import Engine
from headwater.engine.messages import Adapter, AdapterAnswer, SamplingParams, Submit

from .adapters import peft_tokens, save_adapter
from .tiny import generate, tiny_engine

PROMPT = [5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79]
NEW_TOKENS = 12
KINDS: dict[str, dict[str, object]] = {
    "all": {},
    "attention": {"r": 5, "lora_alpha": 3, "target_modules": ["q_proj", "v_proj"], "use_rslora": True},
    "patterns": {
        "r": 4,
        "target_modules": r".*\.(k_proj|gate_proj|up_proj|down_proj)",
        "rank_pattern": {"down_proj": 33, r"layers\.0\.mlp\.up_proj": 2},
        "alpha_pattern": {"k_proj": 32},
    },
    "one layer": {"r": 64, "target_modules": ["o_proj", "down_proj"], "layers_to_transform": [1]},
}


@pytest.fixture(scope="module")
def adapters(tiny_llama: tuple[Path, LlamaForCausalLM], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    _, model = tiny_llama
    root = tmp_path_factory.mktemp("adapters")
    return {
        name: save_adapter(model, root / name.replace(" ", "-"), seed, **settings)
        for seed, (name, settings) in enumerate(KINDS.items())
    }


@pytest.fixture(scope="module")
def engine(tiny_llama: tuple[Path, LlamaForCausalLM], adapters: dict[str, Path]) -> Engine:
    listed = tuple(Adapter(name, str(path)) for name, path in adapters.items())
    return tiny_engine(tiny_llama[0], adapters=listed)


def greedy(adapter: str | None, new_tokens: int = NEW_TOKENS) -> SamplingParams:
    return SamplingParams(new_tokens, greedy=True, adapter=adapter)


@pytest.mark.parametrize("name", list(KINDS))
def test_tokens_are_those_of_peft(
    name: str, engine: Engine, tiny_llama: tuple[Path, LlamaForCausalLM], adapters: dict[str, Path]
) -> None:
    _, model = tiny_llama
    (got,) = generate(engine, [(PROMPT, greedy(name))])
    assert got == peft_tokens(model, adapters[name], PROMPT, NEW_TOKENS)
    assert got != generate(engine, [(PROMPT, greedy(None))])[0]


SMALL = {
    "vocab_size": 320, "hidden_size": 96, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 16, "initializer_range": 0.3, "num_experts_per_tok": 2, "bos_token_id": None,
    "eos_token_id": None, "pad_token_id": None,
}  # fmt: skip
MIXTURES = {
    "mixtral": MixtralConfig(**SMALL, num_local_experts=4),
    "shared expert": Qwen2MoeConfig(
        **SMALL, num_experts=4, moe_intermediate_size=64, shared_expert_intermediate_size=64
    ),
}


@pytest.mark.parametrize("mixture", MIXTURES)
def test_mixtures_have_them_outside_of_their_experts(mixture: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(MIXTURES[mixture]).eval()
    model.save_pretrained(tmp_path / "model")
    modules = ["q_proj", "k_proj", "v_proj", "o_proj"]
    if mixture == "shared expert":
        modules += ["gate_proj", "up_proj", "down_proj", "shared_expert_gate"]
    path = save_adapter(model, tmp_path / "adapter", seed=0, target_modules=modules)
    saved = {name.split(".lora_")[0].rsplit(".", 1)[1] for name in load_file(path / "adapter_model.safetensors")}
    assert saved == set(modules)
    engine = tiny_engine(tmp_path / "model", adapters=(Adapter("x", str(path)),))
    (got,) = generate(engine, [(PROMPT, greedy("x"))])
    assert got == peft_tokens(model, path, PROMPT, NEW_TOKENS)
    assert got != generate(engine, [(PROMPT, greedy(None))])[0]


def test_stacked_experts_have_none(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_config(MIXTURES["mixtral"])
    path = save_adapter(model, tmp_path / "adapter", seed=0)  # all linears are experts, too, to PEFT
    with pytest.raises(ModelError, match=r"target_parameters: .* such as stacked experts: not supported"):
        read_peft_config(path)


def run(engine: Engine, submits: list[Submit]) -> dict[int, tuple[list[int], list[float]]]:
    """Tokens and logprobs of each."""
    told: dict[int, tuple[list[int], list[float]]] = {submit.request_id: ([], []) for submit in submits}
    for submit in submits:
        assert engine.submit(0, submit) is None
    while engine.has_work:
        for step in engine.step().values():
            assert not step.failed, step.failed
            for new in step.tokens:
                told[new.request_id][0].extend(new.token_ids)
                told[new.request_id][1].extend(new.logprobs)
    engine.check()
    return told


def submits_of(names: list[str | None]) -> list[Submit]:
    """Prompts of several lengths, sampled with logprobs, one for each name."""
    sampled = SamplingParams(10, greedy=False, temperature=0.7)
    return [
        Submit(i, [1 + i, *PROMPT[: 3 + 5 * (i % 4)]], msgspec.structs.replace(sampled, seed=i, adapter=name))
        for i, name in enumerate(names)
    ]


MIXED = [None, "all", "patterns", None, "one layer", "all", "attention", "patterns"]


COMPUTED = {
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "int4, rows in int8": {"dtype": "bfloat16", "quantize": "int4", "activation_dtype": "int8"},
}


@pytest.mark.parametrize("computed", COMPUTED)
def test_answers_are_the_same_in_any_company(
    computed: str, tiny_llama: tuple[Path, LlamaForCausalLM], adapters: dict[str, Path]
) -> None:
    directory, _ = tiny_llama
    listed = tuple(Adapter(name, str(path)) for name, path in adapters.items())
    settings = COMPUTED[computed] | {"adapters": listed}
    submits = submits_of(MIXED)
    engine = tiny_engine(directory, **settings, prefix_cache=False)
    alone = {submit.request_id: run(engine, [submit])[submit.request_id] for submit in submits}
    assert run(engine, submits) == alone

    chunked = tiny_engine(directory, **settings, max_batch_prefill_tokens=5)
    assert run(chunked, submits) == alone, "prompts in chunks, and pages from the cache"
    assert run(chunked, submits) == alone
    cramped = tiny_engine(directory, **settings, num_pages=5, max_total_tokens=64)
    assert run(cramped, submits) == alone, "preempted and computed again"
    assert cramped.stats().preemptions > 0
    assert run(tiny_engine(directory, **settings, speculate=3), submits) == alone, "with guesses"

    rest = [
        msgspec.structs.replace(submit, emitted_ids=alone[submit.request_id][0][:4], replayed=True)
        for submit in submits
    ]
    goes_on = {key: (tokens[4:], logprobs[4:]) for key, (tokens, logprobs) in alone.items()}
    assert run(engine, rest) == goes_on, "in an engine that follows"

    plain = tiny_engine(directory, **COMPUTED[computed])
    own = [submit for submit in submits if submit.sampling.adapter is None]
    assert run(plain, own) == {submit.request_id: alone[submit.request_id] for submit in own}


def test_pages_are_found_by_those_of_the_same_adapter_only(engine: Engine) -> None:
    prompt = list(range(100, 140))
    for name in ("all", "attention", None):
        before = engine.stats().cached_tokens
        first = run(engine, [Submit(0, prompt, greedy(name))])
        assert engine.stats().cached_tokens == before
        assert run(engine, [Submit(0, prompt, greedy(name))]) == first
        assert engine.stats().cached_tokens == before + 32


def refusal(engine: Engine, name: str) -> str:
    """Of a new sequence that names an adapter."""
    failed = engine.submit(0, Submit(7, PROMPT, greedy(name)))
    assert failed is not None
    return failed.error


def change(engine: Engine, name: str, path: Path) -> AdapterAnswer:
    """Load one, to the end."""
    assert engine.adapters is not None
    ready = threading.Event()
    engine.adapters.wake = ready.set
    if (refused := engine.adapters.load(Requester(0, 9), Adapter(name, str(path)))) is not None:
        return refused
    assert ready.wait(60)
    ((requester, answer),) = engine.adapters.finish()
    assert requester == Requester(0, 9)
    return answer


def test_adapters_come_and_go_while_sequences_run(
    tiny_llama: tuple[Path, LlamaForCausalLM], adapters: dict[str, Path]
) -> None:
    directory, model = tiny_llama
    engine = tiny_engine(directory, max_loras=1)
    assert engine.adapters is not None
    whole = run(engine, [Submit(0, PROMPT, greedy(None, 100))])[0]

    assert refusal(engine, "x") == "adapter 'x' is not loaded"
    assert engine.submit(0, Submit(0, PROMPT, greedy(None, 100))) is None
    assert change(engine, "x", adapters["all"]).error is None
    assert change(engine, "x", adapters["all"]).error == "adapter 'x' is loaded already"
    assert change(engine, "y", adapters["all"]).error == "1 adapters are loaded, which is the most (--max-loras)"

    # Unloaded while a sequence has it: that one gets the rest of its tokens, others are refused.
    assert engine.submit(0, Submit(1, PROMPT, greedy("x", 40))) is None
    assert engine.adapters.unload(Requester(0, 9), "x").error is None
    assert not engine.free_adapters()
    assert engine.adapters.listed.adapters == ()
    assert refusal(engine, "x") == "adapter 'x' is not loaded"
    assert engine.submit(0, Submit(3, PROMPT, greedy("x", 40), replayed=True)) is None
    assert change(engine, "x", adapters["all"]).error == "adapter 'x' is being unloaded: sequences still use it"
    tokens: dict[int, list[int]] = {0: [], 1: [], 3: []}
    while engine.has_work:
        for step in engine.step().values():
            for new in step.tokens:
                tokens[new.request_id] += new.token_ids
    assert tokens[0] == whole[0]
    assert tokens[1] == tokens[3] == peft_tokens(model, adapters["all"], PROMPT, 40)

    # The name again, for another one, in the same slot: nothing of the first is found.
    assert engine.free_adapters()
    assert change(engine, "x", adapters["attention"]).error is None
    assert generate(engine, [(PROMPT, greedy("x"))])[0] == peft_tokens(model, adapters["attention"], PROMPT, NEW_TOKENS)


def test_what_cannot_be_loaded_leaves_its_place(
    tiny_llama: tuple[Path, LlamaForCausalLM], adapters: dict[str, Path], tmp_path: Path
) -> None:
    engine = tiny_engine(tiny_llama[0], max_loras=1)
    answer = change(engine, "x", tmp_path)
    assert answer.error_type == "invalid"
    assert answer.error == f"adapter x: {tmp_path / 'adapter_config.json'}: no such file. " + (
        "An adapter is a directory that PEFT wrote."
    )
    assert change(engine, "x", adapters["all"]).error is None
    listed = (Adapter("a", str(adapters["all"])), Adapter("b", str(adapters["all"])))
    with pytest.raises(ModelError, match="adapter b: there is room for 1: see --max-loras"):
        tiny_engine(tiny_llama[0], max_loras=1, adapters=listed)
