"""GPT-OSS's checkpoints: experts in MXFP4 are those that transformers makes of the same file, and never widened."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GptOssConfig, GptOssForCausalLM
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from headwater.engine.checkpoint.errors import ModelError
from headwater.engine.checkpoint.interleaved_experts import InterleavedExperts
from headwater.engine.checkpoint.safetensors_dir import open_checkpoint
from headwater.engine.models.config import ClampedSilu
from headwater.engine.models.dtypes import choose_dtypes
from headwater.engine.models.families import read_config
from headwater.engine.models.load import load_model
from headwater.kernels import load_backend

from .forward import prompt_logits
from .test_exactness import run, strip
from .test_experts import OTHERS, REQUESTS
from .tiny import tiny_engine

EXPERTS, HIDDEN, WIDTH = 6, 96, 64
CONFIG = GptOssConfig(
    vocab_size=320, hidden_size=HIDDEN, intermediate_size=WIDTH, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=64, max_position_embeddings=256, initializer_range=0.2, num_local_experts=EXPERTS,
    num_experts_per_tok=2, sliding_window=12, swiglu_limit=3.0, bos_token_id=None, eos_token_id=None, pad_token_id=None,
    rope_parameters={
        "rope_type": "yarn", "rope_theta": 150000.0, "factor": 8.0, "original_max_position_embeddings": 32,
        "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
    },
)  # fmt: skip
# As openai/gpt-oss-20b has it; see also its fields in bench/device/dry_run/models.py.
QUANTIZATION = {
    "modules_to_not_convert": [
        "model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head",
    ],
    "quant_method": "mxfp4",
}  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, GptOssForCausalLM]:
    """A directory with random MXFP4 experts, and transformers' model with these as floats, in fp64."""
    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("gpt-oss")
    model = GptOssForCausalLM(CONFIG).eval()
    model.save_pretrained(directory)
    tensors = load_file(directory / "model.safetensors")
    model.set_experts_implementation("eager")  # the others know no fp64
    parameters = dict(model.double().named_parameters())
    for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj"))]:
        _, inputs, outputs = tensors.pop(name).shape
        blocks = torch.randint(0, 256, (EXPERTS, outputs, inputs // 32, 16), dtype=torch.uint8)
        scales = torch.randint(118, 123, (EXPERTS, outputs, inputs // 32), dtype=torch.uint8)
        tensors |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
        with torch.no_grad():
            parameters[name].copy_(convert_moe_packed_tensors(blocks, scales, dtype=torch.float64))
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    fields = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(fields | {"quantization_config": QUANTIZATION}))
    return directory, model


@torch.inference_mode()
@pytest.mark.parametrize(("backend", "tokens"), [("cpu", 40), ("triton", 3)])  # the interpreter takes a while for each
def test_logits_are_those_of_the_dequantised_weights(
    models: tuple[Path, GptOssForCausalLM], backend: str, tokens: int
) -> None:
    directory, model = models
    prompt = list(range(3, 3 + tokens))
    want = model(torch.tensor([prompt])).logits[0].float()
    assert want.std() > 1.0
    torch.testing.assert_close(prompt_logits(directory, prompt, backend_name=backend), want, rtol=0.0, atol=1e-4)


def test_every_weight_is_the_number_that_its_bytes_stand_for(tmp_path: Path) -> None:
    blocks = torch.arange(256, dtype=torch.uint8).repeat(1, 2, 16, 1).view(1, 32, 16, 16)  # all codes at each scale
    scales = (torch.arange(512) // 2).clamp(max=252).to(torch.uint8).view(1, 32, 16)  # from 253 on fp32 has no 6 of it
    file = {"x.experts.gate_up_proj_blocks": blocks, "x.experts.gate_up_proj_scales": scales}
    save_file(file, tmp_path / "model.safetensors")
    experts = InterleavedExperts(open_checkpoint(tmp_path))
    values = convert_moe_packed_tensors(blocks, torch.full_like(scales, 127), dtype=torch.float64)[0].T
    want = values * 2.0 ** (scales[0].double() - 127).repeat_interleave(32, -1)
    for part, first in (("gate", 0), ("up", 1)):
        got = experts.get(f"x.experts.0.{part}_proj.weight", (16, 512))
        assert torch.equal(got.double(), want[first::2])


def test_experts_take_the_memory_that_they_take_in_the_file(models: tuple[Path, GptOssForCausalLM]) -> None:
    directory, _ = models
    config, backend, device = read_config(directory), load_backend("triton"), torch.device("cpu")
    dtypes = choose_dtypes(backend, "float32")
    loaded = load_model(directory, config, backend, dtypes, device, 64)
    per_expert = HIDDEN * 3 * WIDTH
    padded = 128 * 2 * WIDTH + 64 * HIDDEN  # inputs of a block
    read = CONFIG.num_experts_per_tok * 2 * (4.25 / 8 * 1.06 * padded + 4 * (2 * WIDTH + HIDDEN))
    floats = sum(
        4 * parameter.numel() for name, parameter in models[1].named_parameters()
        if (parameter.dim() == 2 and "experts" not in name and "embed" not in name) or name.endswith("_proj.bias")
    )  # fmt: skip
    assert per_expert < padded
    assert loaded.linear_bytes <= floats + read + 2 * 4 * EXPERTS


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_answers_are_the_same_in_any_company(models: tuple[Path, GptOssForCausalLM], dtype: str) -> None:
    directory, _ = models
    engine = tiny_engine(directory, dtype=dtype, max_batch_size=16, max_batch_prefill_tokens=64, prefix_cache=False)
    alone = [run(engine, [request])[0] for request in REQUESTS]
    assert [len(answer.token_ids) for answer in alone] == [10, 10]
    assert strip(run(engine, [*REQUESTS, *OTHERS])[:2]) == strip(alone), "among others"
    chunked = tiny_engine(directory, dtype=dtype, max_batch_size=16, max_batch_prefill_tokens=7, speculate=3)
    assert strip(run(chunked, REQUESTS)) == strip(alone), "in chunks, with guesses"
    again = run(chunked, REQUESTS)
    assert strip(again) == strip(alone), "with a prompt from the cache"


def changed(source: Path, directory: Path, config: dict[str, object], tensors: dict[str, torch.Tensor | None]) -> Path:
    """A copy with other fields and tensors; None: without it."""
    fields = json.loads((source / "config.json").read_text()) | config
    (directory / "config.json").write_text(json.dumps(fields))
    all_tensors = load_file(source / "model.safetensors") | tensors
    kept = {name: tensor for name, tensor in all_tensors.items() if tensor is not None}
    save_file(kept, directory / "model.safetensors", {"format": "pt"})
    return directory


DOWN = "model.layers.1.mlp.experts.down_proj"


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({f"{DOWN}_scales": None}, f"tensor {DOWN}_scales is missing"),
        ({f"{DOWN}_blocks": None}, f"tensor {DOWN} is missing"),
        ({f"{DOWN}_bias": None}, f"tensor {DOWN}_bias is missing"),
        ({f"{DOWN}_scales": torch.zeros(EXPERTS, HIDDEN, 3, dtype=torch.uint8)}, r"_scales has shape \[6, 96, 3\]"),
        ({f"{DOWN}_blocks": torch.zeros(5, HIDDEN, 2, 16, dtype=torch.uint8)}, r"_blocks has shape \[5, 96, 2, 16\]"),
        ({f"{DOWN}_scales": torch.full((EXPERTS, HIDDEN, 2), 255, dtype=torch.uint8)}, "a scale that is no number"),
        ({f"{DOWN}_blocks": torch.zeros(EXPERTS, HIDDEN, 2, 16, dtype=torch.int8)}, "is stored as I8"),
        ({"model.layers.0.self_attn.sinks": torch.zeros(3)}, r"sinks has shape \[3\], config.json asks for \[4\]"),
    ],
)
def test_a_damaged_file_is_refused_by_name(
    models: tuple[Path, GptOssForCausalLM], tmp_path: Path, tensors: dict[str, torch.Tensor | None], message: str
) -> None:
    directory = changed(models[0], tmp_path, {}, tensors)
    with pytest.raises(ModelError, match=message):
        prompt_logits(directory, [1])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"quantization_config": {"quant_method": "gptq"}}, "GPT-OSS quantised by 'gptq' is not supported"),
        ({"swiglu_limit": 0.0}, "swiglu_limit is 0.0"),
        ({"num_experts_per_tok": None}, "num_experts_per_tok is missing"),
        ({"architectures": ["LlamaForCausalLM"]}, "quantised by 'mxfp4' are not supported"),
    ],
)
def test_a_variant_that_is_not_known_is_refused(
    models: tuple[Path, GptOssForCausalLM], tmp_path: Path, fields: dict[str, object], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        read_config(changed(models[0], tmp_path, fields, {}))


def test_what_config_json_leaves_unsaid(models: tuple[Path, GptOssForCausalLM], tmp_path: Path) -> None:
    unsaid = {"dtype": None, "layer_types": None, "swiglu_alpha": None, "swiglu_limit": None, "attention_bias": None}
    directory = changed(models[0], tmp_path, {}, {})
    fields = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({k: v for k, v in fields.items() if k not in unsaid}))
    config = read_config(directory)
    assert (config.dtype, config.qkv_bias, config.output_bias) == ("bfloat16", True, True)
    assert [layer.window for layer in config.layers] == [12, 0]
    experts = config.layers[0].experts
    assert experts is not None
    assert experts.clamp == ClampedSilu(1.702, 7.0)
    assert config.stored_form == "mxfp4"
