"""Models with experts as they are served: in any company, on both backends, from files of either layout."""

import json
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM

from headwater.engine.checkpoint.errors import ModelError
from headwater.engine.messages import SamplingParams
from headwater.engine.models.families import read_config

from .forward import prompt_logits
from .test_exactness import Answer, run, strip
from .tiny import tiny_engine

SAMPLING = SamplingParams(10, greedy=True, top_n=3)
REQUESTS = [
    (list(range(3, 40)), SAMPLING),
    ([7, 8, 9, 7, 8, 9, 7, 8], msgspec.structs.replace(SAMPLING, greedy=False, seed=3, top_p=0.9)),
]
OTHERS = [([5 + i] * (1 + 3 * i), msgspec.structs.replace(SAMPLING, max_new_tokens=2 + i)) for i in range(9)]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers, one of them a mixture with a shared expert."""
    torch.manual_seed(0)
    config = Qwen2MoeConfig(
        vocab_size=320, hidden_size=96, intermediate_size=96, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=2, head_dim=64, max_position_embeddings=128, initializer_range=0.3, num_experts=6,
        num_experts_per_tok=2, moe_intermediate_size=96, shared_expert_intermediate_size=96, mlp_only_layers=[0],
        bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    directory = tmp_path_factory.mktemp("experts")
    Qwen2MoeForCausalLM(config).save_pretrained(directory)
    return directory


@pytest.mark.parametrize(
    ("dtype", "quantize"),
    [("float32", None), ("bfloat16", None), ("bfloat16", "int8"), ("bfloat16", "fp8"), ("bfloat16", "int4")],
)
def test_answers_are_the_same_in_any_company(directory: Path, dtype: str, quantize: str | None) -> None:
    settings = {"dtype": dtype, "quantize": quantize, "max_batch_size": 16}
    engine = tiny_engine(directory, **settings, max_batch_prefill_tokens=64, prefix_cache=False)
    alone = [run(engine, [request])[0] for request in REQUESTS]
    assert [len(answer.token_ids) for answer in alone] == [10, 10]
    assert strip(run(engine, [*REQUESTS, *OTHERS])[:2]) == strip(alone), "among others"
    chunked = tiny_engine(directory, **settings, max_batch_prefill_tokens=7, speculate=3)
    assert strip(run(chunked, REQUESTS)) == strip(alone), "in chunks, with guesses"
    again: list[Answer] = run(chunked, REQUESTS)
    assert strip(again) == strip(alone), "with a prompt from the cache"
    assert again[0].cached_tokens > 0


def test_the_triton_backend_gives_the_cpu_backends_logits(directory: Path) -> None:
    cpu, triton = (prompt_logits(directory, [7, 8, 9], backend_name=name) for name in ("cpu", "triton"))
    torch.testing.assert_close(triton, cpu, rtol=0.0, atol=1e-4)


def test_experts_may_be_stacked_in_the_file(directory: Path, tmp_path: Path) -> None:
    tensors = load_file(directory / "model.safetensors")
    experts = "model.layers.1.mlp.experts"
    stacked = {
        f"{experts}.{name}": torch.stack([
            torch.cat([tensors.pop(f"{experts}.{index}.{part}.weight") for part in parts]) for index in range(6)
        ])
        for name, parts in (("gate_up_proj", ("gate_proj", "up_proj")), ("down_proj", ("down_proj",)))
    }  # fmt: skip
    assert not any(".experts." in name for name in tensors)
    save_file(tensors | stacked, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text((directory / "config.json").read_text())
    assert torch.equal(prompt_logits(tmp_path, [5, 6, 7]), prompt_logits(directory, [5, 6, 7]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_experts_per_tok": 7}, "num_experts_per_tok is 7, of 6 experts in all"),
        ({"num_experts_per_tok": None}, "num_experts_per_tok is missing"),
        ({"moe_intermediate_size": 0}, "intermediate_size is 0"),
        ({"decoder_sparse_step": 0}, "decoder_sparse_step is 0"),
    ],
)
def test_a_mixture_that_cannot_be_is_refused(
    directory: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    fields = json.loads((directory / "config.json").read_text())
    fields.setdefault("num_experts", fields.get("num_local_experts"))
    (tmp_path / "config.json").write_text(json.dumps(fields | changes))
    with pytest.raises(ModelError, match=message):
        read_config(tmp_path)
