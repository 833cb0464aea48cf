"""GPT-OSS as llama.cpp's converter writes it: gate and up apart, biases and sinks, everything in MXFP4 here."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize, quantize
from transformers import GptOssConfig, GptOssForCausalLM

from headwater.engine.checkpoint.conversion_cache import cached_conversion
from headwater.engine.checkpoint.convert import convert
from headwater.engine.checkpoint.errors import ModelError
from headwater.engine.checkpoint.gguf_config import token_ids
from headwater.engine.checkpoint.gguf_file import GgufFile
from headwater.engine.models.families import read_config

from ..forward import prompt_logits
from .conftest import HEADS, HIDDEN, KV_HEADS, LAYERS, TOKENS, WIDTH, default_metadata, write_gguf

MXFP4 = gguf.GGMLQuantizationType.MXFP4
CONFIG = GptOssConfig(
    vocab_size=len(TOKENS), hidden_size=HIDDEN, intermediate_size=WIDTH, num_hidden_layers=LAYERS, head_dim=16,
    num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, max_position_embeddings=128, initializer_range=0.3,
    num_local_experts=5, num_experts_per_tok=2, sliding_window=9, pad_token_id=None, bos_token_id=1, eos_token_id=0,
    rope_parameters={
        "rope_type": "yarn", "rope_theta": 150000.0, "factor": 4.0, "original_max_position_embeddings": 32,
        "truncate": False,
    },
)  # fmt: skip
KEYS = {
    "block_count": LAYERS, "context_length": 128, "embedding_length": HIDDEN, "feed_forward_length": WIDTH,
    "expert_feed_forward_length": WIDTH, "attention.head_count": HEADS, "attention.head_count_kv": KV_HEADS,
    "attention.key_length": 16, "attention.value_length": 16, "attention.layer_norm_rms_epsilon": 1e-5,
    "attention.sliding_window": 9, "expert_count": 5, "expert_used_count": 2, "rope.freq_base": 150000.0,
    "rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 32,
}  # fmt: skip
NAMES = {
    "self_attn.sinks": "attn_sinks.weight", "mlp.router.weight": "ffn_gate_inp.weight",
    "mlp.router.bias": "ffn_gate_inp.bias", "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "post_attention_norm.weight",
}  # fmt: skip


def rounded(matrix: torch.Tensor) -> torch.Tensor:
    """To values that MXFP4 has."""
    return torch.from_numpy(dequantize(quantize(matrix.contiguous().numpy(), MXFP4), MXFP4))


@torch.inference_mode()
def random_model() -> GptOssForCausalLM:
    """Matrices have the values that the file will have."""
    torch.manual_seed(0)
    model = GptOssForCausalLM(CONFIG).eval()
    for name, parameter in model.named_parameters():
        if name.endswith(("gate_up_proj", "down_proj")):  # [experts, in, out]
            parameter.copy_(rounded(parameter.mT).mT)
        elif parameter.dim() == 2 and not name.endswith("_bias"):
            parameter.copy_(rounded(parameter))
    return model


def stored(model: GptOssForCausalLM) -> dict[str, np.ndarray]:
    """Tensors as llama.cpp has them."""
    tensors: dict[str, np.ndarray] = {}
    for name, parameter in model.named_parameters():
        index, _, part = name.partition(".layers.")[2].partition(".")
        values, layer = parameter.detach(), f"blk.{index}"
        if part.startswith("mlp.experts."):
            kind = "bias" if part.endswith("_bias") else "weight"
            outputs_first = values if kind == "bias" else values.mT
            if "gate_up" in part:
                tensors[f"{layer}.ffn_gate_exps.{kind}"] = outputs_first[:, 0::2].contiguous().numpy()
                tensors[f"{layer}.ffn_up_exps.{kind}"] = outputs_first[:, 1::2].contiguous().numpy()
            else:
                tensors[f"{layer}.ffn_down_exps.{kind}"] = outputs_first.contiguous().numpy()
        else:
            tensors[f"{layer}.{NAMES[part]}" if part in NAMES else name] = values.numpy()
    return tensors


def write(directory: Path, model: GptOssForCausalLM) -> Path:
    said = {key: value for key, value in default_metadata().items() if key.startswith("tokenizer.")}
    said |= {f"gpt-oss.{key}": value for key, value in KEYS.items()}
    return write_gguf(directory / "tiny.gguf", stored(model), said, MXFP4, "gpt-oss")


@torch.inference_mode()
def test_a_file_is_served_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = random_model()
    directory = cached_conversion(write(tmp_path, model))
    ids = [5, 9, 7] * 13  # longer than the window
    want = model(torch.tensor([ids])).logits[0]
    assert want.std() > 0.1
    torch.testing.assert_close(prompt_logits(directory, ids), want, rtol=1e-4, atol=1e-4)
    config = read_config(directory)
    assert [layer.window for layer in config.layers] == [9, 0]
    assert not config.layers[0].rope.truncate


def test_a_file_is_not_converted(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="'gpt-oss' is served as the file has it; it cannot be converted"):
        convert(write(tmp_path, random_model()), tmp_path / "out")


def test_a_message_of_several_does_not_end_the_turn(tmp_path: Path) -> None:
    tokens = ["<|endoftext|>", "<|return|>", "<|end|>", "<|call|>", "a"]
    said = {
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.token_type": [3, 3, 3, 3, 1],
    }  # fmt: skip
    path = write_gguf(tmp_path / "tiny.gguf", {}, said, architecture="gpt-oss")
    assert sorted(token_ids(GgufFile(path))["eos_token_id"]) == [0, 1, 3]
