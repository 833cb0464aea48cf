"""Adapters (LoRA) of PEFT: the tokens that PEFT gives, whoever shares the batch."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import LlamaForCausalLM

from headwater.engine.engine import Engine
from headwater.engine.messages import Adapter, SamplingParams, Submit

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
def engine(tiny_llama: tuple[Path, LlamaForCausalLM], adapters: dict[str, Path]) -> Iterator[Engine]:
    listed = tuple(Adapter(name, str(path)) for name, path in adapters.items())
    yield tiny_engine(tiny_llama[0], adapters=listed)


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
