"""What PEFT may write and isn't done here is refused by name, as is what is damaged or belongs to another model."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from headwater.engine.checkpoint.errors import ModelError
from headwater.engine.checkpoint.peft import read_adapter, read_peft_config

from ...adapter_files import write_adapter

LINEARS = {
    f"model.layers.{layer}.{name}": shape
    for layer in (0, 1)
    for name, shape in (("self_attn.q_proj", (8, 6)), ("mlp.down_proj", (6, 10)))
}
QUERY = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "adapter", LINEARS)


def configure(directory: Path, **fields: object) -> None:
    path = directory / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def refusal(directory: Path) -> str:
    with pytest.raises(ModelError) as raised:
        read_adapter(directory, LINEARS)
    assert str(directory) in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"peft_type": "IA3"}, "peft_type IA3 is not supported"),
        ({"use_dora": True}, "use_dora: DoRA: not supported"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save: whole modules"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"target_parameters": ["mlp.experts.down_proj"]}, "target_parameters"),
        ({"lora_bias": True}, "lora_bias"),
        ({"bias": "all"}, "bias: all: biases that were trained"),
        (
            {"init_lora_weights": "pissa_niter_4"},
            "init_lora_weights: pissa_niter_4: it belongs to a changed base model",
        ),
        ({"r": 257}, r"rank 257: it must be in [1, 256]"),
        ({"r": 0}, "rank 0"),
        ({"rank_pattern": {"q_proj": 300}}, "rank 300"),
        ({"target_modules": "("}, "adapter_config.json: "),
        ({"r": "4"}, "Expected `int`"),
        ({"r": 5}, "has shape [4, 10]; rank 5 and this model ask for [5, 10]"),
        ({"rank_pattern": {"down_proj": 2}}, "has shape [4, 10]; rank 2 and this model ask for [2, 10]"),
        ({"target_modules": ["q_proj"]}, "model.layers.0.mlp.down_proj, model.layers.1.mlp.down_proj: there, but"),
        ({"layers_to_transform": [1]}, "model.layers.0.mlp.down_proj, model.layers.0.self_attn.q_proj: there, but"),
        ({"exclude_modules": ["down_proj"]}, "model.layers.0.mlp.down_proj, model.layers.1.mlp.down_proj: there, but"),
    ],
)
def test_what_a_config_asks_for(directory: Path, fields: dict[str, object], words: str) -> None:
    configure(directory, **fields)
    assert words in refusal(directory)


@pytest.mark.parametrize(
    ("taken", "added", "words"),
    [
        ([QUERY], {}, "model.layers.0.self_attn.q_proj has lora_B, but not the other matrix"),
        ([QUERY, QUERY.replace("_A.", "_B.")], {}, "tensors of model.layers.0.self_attn.q_proj, which"),
        ([], {"base_model.model.lm_head.lora_A.weight": (4, 6), "base_model.model.lm_head.lora_B.weight": (9, 4)},
         "lm_head: this server adapts no module of that name"),
        ([], {"base_model.model.model.layers.0.mlp.experts.0.up_proj.lora_A.weight": (4, 6),
              "base_model.model.model.layers.0.mlp.experts.0.up_proj.lora_B.weight": (9, 4)},
         "model.layers.0.mlp.experts.0.up_proj: adapters of experts are not supported"),
        ([], {"base_model.model.model.embed_tokens.lora_embedding_A": (4, 9)}, "lora_embedding_A: only lora_A and"),
        ([], {"base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector": (8,)}, "_vector: only"),
        ([QUERY], {QUERY: (4, 7)}, "has shape [4, 7]; rank 4 and this model ask for [4, 6]"),
    ],
)  # fmt: skip
def test_tensors(directory: Path, taken: list[str], added: dict[str, tuple[int, ...]], words: str) -> None:
    path = directory / "adapter_model.safetensors"
    tensors = {name: tensor for name, tensor in load_file(path).items() if name not in taken}
    save_file(tensors | {name: torch.ones(shape) for name, shape in added.items()}, path)
    assert words in refusal(directory)


def test_values_that_are_not_finite_and_integers(directory: Path) -> None:
    path = directory / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, QUERY: tensors[QUERY].index_fill(0, torch.tensor([1]), torch.nan)}, path)
    assert f"{QUERY} has values that are not finite" in refusal(directory)
    save_file({**tensors, QUERY: tensors[QUERY].int()}, path)
    assert f"{QUERY} is stored as I32" in refusal(directory)


def test_files_that_are_missing_or_damaged(directory: Path) -> None:
    weights = directory / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    assert "damaged" in refusal(directory)
    weights.unlink()
    assert "there is no model.safetensors" not in refusal(directory)
    (directory / "adapter_model.bin").touch()
    assert "only pickled weights (adapter_model.bin)" in refusal(directory)
    (directory / "adapter_config.json").write_text("{")
    assert "no JSON" in refusal(directory)
    (directory / "adapter_config.json").unlink()
    assert "no such file. An adapter is a directory that PEFT wrote" in refusal(directory)


def test_scales_and_ranks_by_pattern(directory: Path) -> None:
    configure(
        directory, r=16, lora_alpha=32, use_rslora=True, rank_pattern={r"layers\.1\.mlp\.down_proj": 4},
        alpha_pattern={"q_proj": 8},
    )  # fmt: skip
    config = read_peft_config(directory)
    assert config.scale("model.layers.1.mlp.down_proj") == 16.0
    assert config.scale("model.layers.0.mlp.down_proj") == 8.0
    assert config.scale("model.layers.0.self_attn.q_proj") == 2.0
