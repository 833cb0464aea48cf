import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from headwater.engine.checkpoint.convert import convert
from headwater.engine.checkpoint.errors import ModelError
from headwater.engine.checkpoint.gguf_weights import to_bf16
from headwater.engine.checkpoint.resolve import resolve_model
from headwater.engine.checkpoint.safetensors_dir import open_checkpoint

from .conftest import HEAD_DIM, HEADS, HIDDEN, KV_HEADS, LAYERS, TOKENS, WIDTH, WriteGguf, llama_tensors

QUANTISED = gguf.GGMLQuantizationType


def read_config(directory: Path) -> dict:
    return json.loads((directory / "config.json").read_text())


def test_default_model_has_the_weights_that_transformers_reads(default_gguf: Path, default_model: Path) -> None:
    oracle_config = AutoConfig.from_pretrained(default_gguf.parent, gguf_file=default_gguf.name)
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(oracle_config)
    oracle = load_gguf_checkpoint(str(default_gguf), return_tensors=True, model_to_load=skeleton)["tensors"]
    checkpoint = open_checkpoint(default_model)
    assert set(checkpoint) == set(oracle)
    for name, want in oracle.items():
        assert torch.equal(checkpoint.get(name, want.shape), want.to(torch.bfloat16)), name


def test_default_model_has_the_config_that_transformers_reads(default_gguf: Path, default_model: Path) -> None:
    want = AutoConfig.from_pretrained(default_gguf.parent, gguf_file=default_gguf.name)
    got = AutoConfig.from_pretrained(default_model)
    same = [
        "model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "head_dim", "hidden_act", "max_position_embeddings", "rope_parameters",
        "attention_bias", "mlp_bias", "tie_word_embeddings", "bos_token_id", "pad_token_id",
    ]  # fmt: skip
    assert {key: getattr(got, key) for key in same} == {key: getattr(want, key) for key in same}
    assert got.eos_token_id == [want.eos_token_id, 0]  # and <|endoftext|>, a control token
    assert got.rms_norm_eps == pytest.approx(want.rms_norm_eps, rel=1e-7)


@pytest.mark.parametrize("kind", [QUANTISED.F32, QUANTISED.F16, QUANTISED.BF16, QUANTISED.Q8_0, QUANTISED.Q4_1])
def test_tensors_come_back_rounded_to_bf16(tiny_gguf: WriteGguf, tmp_path: Path, kind: QUANTISED) -> None:
    tensors = llama_tensors(tied=False)
    if kind is QUANTISED.Q4_1:  # its blocks are of 32 values
        assert HIDDEN % 32 == WIDTH % 32 == 0
    convert(tiny_gguf(tensors=tensors, kind=kind), tmp_path / "out")
    checkpoint = open_checkpoint(tmp_path / "out")
    assert set(checkpoint) == set(tensors)
    for name, values in tensors.items():
        if values.ndim == 2:
            values = gguf.quants.dequantize(gguf.quants.quantize(values, kind), kind)
        want = torch.from_numpy(values.copy()).to(torch.bfloat16)
        assert torch.equal(checkpoint.get(name, want.shape), want), name
    assert read_config(tmp_path / "out")["tie_word_embeddings"] is False


def test_biases_are_kept_and_put_in_order(tiny_gguf: WriteGguf, tmp_path: Path) -> None:
    tensors = llama_tensors()
    sizes = {"q_proj": HEADS * HEAD_DIM, "k_proj": KV_HEADS * HEAD_DIM, "v_proj": KV_HEADS * HEAD_DIM, "o_proj": HIDDEN}
    biases = {
        f"model.layers.{i}.self_attn.{name}.bias": np.arange(size, dtype=np.float32)
        for i in range(LAYERS)
        for name, size in sizes.items()
    }
    convert(tiny_gguf(tensors=tensors | biases), tmp_path / "out")
    checkpoint = open_checkpoint(tmp_path / "out")
    assert read_config(tmp_path / "out")["attention_bias"] is True
    for name, values in biases.items():
        assert torch.equal(checkpoint.get(name, values.shape).float(), torch.from_numpy(values)), name


def test_rounding_is_to_nearest_even_for_every_kind_of_float() -> None:
    bits = np.random.default_rng(0).integers(0, 1 << 32, 1 << 16, dtype=np.uint32)
    halves = np.arange(0, 1 << 32, 0x8000, dtype=np.uint32)  # every bf16, and every value halfway between two
    values = np.concatenate([bits, halves, halves + 1, halves - 1]).view(np.float32)
    got = torch.from_numpy(to_bf16(values).view(np.int16)).view(torch.bfloat16)
    want = torch.from_numpy(values).to(torch.bfloat16)
    nan = torch.isnan(want)
    assert torch.equal(torch.isnan(got), nan)
    assert torch.equal(got[~nan].view(torch.int16), want[~nan].view(torch.int16))


@pytest.mark.parametrize("factor", [8.0, 32.0])  # Llama 3.1, Llama 3.2
def test_llama3_scaling_is_found_in_the_divisors(tiny_gguf: WriteGguf, tmp_path: Path, factor: float) -> None:
    scaling = {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    config = AutoConfig.for_model(
        "llama", hidden_size=HIDDEN, num_attention_heads=HEADS, rope_parameters=scaling | {"rope_theta": 500000.0}
    )
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 500000.0 ** (-torch.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    tensors = llama_tensors() | {"rope_freqs.weight": (plain / scaled).numpy()}
    convert(tiny_gguf({"llama.rope.freq_base": 500000.0}, tensors), tmp_path / "out")
    assert read_config(tmp_path / "out")["rope_scaling"] == scaling
    assert "rope_freqs.weight" not in open_checkpoint(tmp_path / "out")


def test_linear_scaling(tiny_gguf: WriteGguf, tmp_path: Path) -> None:
    convert(tiny_gguf({"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}), tmp_path / "out")
    assert read_config(tmp_path / "out")["rope_scaling"] == {"rope_type": "linear", "factor": 4.0}


def test_all_tokens_that_end_a_turn_are_known(tiny_gguf: WriteGguf, tmp_path: Path) -> None:
    convert(tiny_gguf({"tokenizer.ggml.eot_token_id": 1, "tokenizer.ggml.eom_token_id": 0}), tmp_path / "out")
    generation = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert generation == {"eos_token_id": [0, 1], "bos_token_id": 1}


def test_control_tokens_that_end_a_turn_count_whatever_the_metadata_says(tiny_gguf: WriteGguf, tmp_path: Path) -> None:
    tokens = [TOKENS[0], "<|im_end|>", *TOKENS[2:-1], "<|eot_id|>"]  # the last one is defined by a user
    convert(tiny_gguf({"tokenizer.ggml.tokens": tokens}), tmp_path / "out")
    generation = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [0, 1]


def without(name: str) -> dict[str, np.ndarray]:
    tensors = llama_tensors()
    del tensors[name]
    return tensors


BROKEN = {
    "architecture": (
        {"architecture": "rwkv5"},
        "'rwkv5' cannot be converted; known: llama, qwen2, qwen3, .*phi3, .*gemma3, .*",
    ),
    "experts": ({"metadata": {"qwen2.expert_count": 8}, "architecture": "qwen2"}, "mixture of experts of architecture"),
    "no experts": (
        {"metadata": {"llama.expert_count": 8, "llama.expert_used_count": 2}},
        "ffn_gate_inp.weight is miss",
    ),
    "scaling": ({"metadata": {"llama.rope.scaling.type": "su"}}, "RoPE scaling 'su' is not known"),
    "divisors": ({"tensors": llama_tensors() | {"rope_freqs.weight": np.arange(8, dtype=np.float32)}}, "rope_freqs"),
    "metadata": ({"metadata": {"llama.block_count": None}}, "no llama.block_count"),
    "metadata type": ({"metadata": {"llama.block_count": "two"}}, "llama.block_count is 'two'"),
    "heads": ({"metadata": {"llama.attention.head_count": 5}}, "does not divide 64"),
    "missing tensor": ({"tensors": without("model.layers.1.mlp.up_proj.weight")}, "blk.1.ffn_up.weight is missing"),
    "no embedding": ({"tensors": without("model.embed_tokens.weight")}, "token_embd.weight is missing"),
    "wrong shape": (
        {"tensors": llama_tensors() | {"model.norm.weight": np.ones(HIDDEN + 1, np.float32)}},
        r"output_norm.weight has shape \[65\], the metadata asks for \[64\]",
    ),
    "extra tensor": ({"tensors": llama_tensors() | {"surprise": np.ones(4, np.float32)}}, "surprise has no place"),
    "tokenizer": ({"metadata": {"tokenizer.ggml.model": "bert"}}, "tokenizer kind 'bert' cannot.*gpt2, llama"),
    "pre-tokenizer": ({"metadata": {"tokenizer.ggml.pre": "gibberish"}}, "pre-tokenizer 'gibberish' is not known"),
    "no pre-tokenizer": ({"metadata": {"tokenizer.ggml.pre": None}}, "pre-tokenizer 'missing' is not known"),
    "no tokens": ({"metadata": {"tokenizer.ggml.tokens": None}}, "no tokenizer.ggml.tokens"),
    "merge": ({"metadata": {"tokenizer.ggml.merges": ["h xyz"]}}, "merges has 'h xyz'"),
    "types": ({"metadata": {"tokenizer.ggml.token_type": [1, 1]}}, "token_type does not have a type for each"),
    "eos": ({"metadata": {"tokenizer.ggml.eos_token_id": 9999}}, "eos_token_id is 9999"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_cannot_be_converted_is_refused_by_name(tiny_gguf: WriteGguf, tmp_path: Path, case: str) -> None:
    changes, message = BROKEN[case]
    path = tiny_gguf(**changes)
    with pytest.raises(ModelError, match=message) as caught:
        convert(path, tmp_path / "out")
    assert str(path) in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["tiny.gguf"]


@pytest.mark.parametrize("kept", [0, 3, 4, 6, 20, 100, 3000, 20000, -1])
def test_a_truncated_file_is_refused(tiny_gguf: WriteGguf, tmp_path: Path, kept: int) -> None:
    path = tiny_gguf()
    whole = path.read_bytes()
    assert len(whole) > 40000
    path.write_bytes(whole[:kept])
    with pytest.raises(ModelError, match=r"tiny\.gguf: (the file is cut short|this is not a GGUF file)"):
        convert(path, tmp_path / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == ["tiny.gguf"]


def test_an_existing_directory_is_not_touched(tiny_gguf: WriteGguf, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("precious")
    with pytest.raises(ModelError, match="exists already"):
        convert(tiny_gguf(), tmp_path / "out")
    assert (tmp_path / "out" / "mine").read_text() == "precious"


def test_a_gguf_of_the_command_line_is_served_under_its_name(
    tiny_gguf: WriteGguf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = resolve_model(str(tiny_gguf()))
    assert found.model_id == "tiny"
    assert found.directory.is_relative_to(tmp_path / "cache" / "headwater")
    assert read_config(found.directory)["hidden_size"] == HIDDEN
