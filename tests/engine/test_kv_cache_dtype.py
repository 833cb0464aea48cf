"""--kv-cache-dtype fp8_e4m3fn: the pages, the checkpoint's scales, and how far the logits move."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from headwater.engine.checkpoint.errors import ModelError
from headwater.engine.checkpoint.resolve import resolve_model
from headwater.engine.config import EngineConfig, KvCacheDtype
from headwater.engine.models.families import read_config
from headwater.engine.start import start_engine

from .forward import prompt_logits
from .quantized_checkpoint import compressed_tensors
from .test_quantized_default_model import TEXT

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9]
LARGE = 2.0**12  # takes K and V far beyond fp8's largest value, and rounds nothing
FORMS = {
    "compressed-tensors": ("k_scale", "v_scale"),
    "vLLM": ("attn.k_scale", "attn.v_scale"),
    "ModelOpt": ("k_proj.k_scale", "v_proj.v_scale"),
    "AutoFP8": ("k_proj.output_scale", "v_proj.output_scale"),
    "one for both": ("kv_scale",),
    "vLLM's for both": ("attn.kv_scale",),
}
KV_SCHEME = {"num_bits": 8, "type": "float", "strategy": "tensor", "symmetric": True, "dynamic": False}


def write_scaled(source: Path, directory: Path, scales: dict[str, torch.Tensor], **config: Any) -> None:
    """The same model with K and V made LARGE, and ``scales`` below each layer's attention."""
    directory.mkdir()
    tensors = load_file(source / "model.safetensors")
    for name in list(tensors):
        for part, factor in (("k_proj", LARGE), ("v_proj", LARGE), ("q_proj", 1 / LARGE), ("o_proj", 1 / LARGE)):
            if name.endswith(f"{part}.weight"):
                tensors[name] = tensors[name] * factor
                if part == "k_proj":
                    attention = name.removesuffix("k_proj.weight")
                    tensors |= {attention + scale: value.clone() for scale, value in scales.items()}
    save_file(tensors, directory / "model.safetensors")
    fields = json.loads((source / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(fields | config))


@pytest.fixture(scope="module")
def exact(tiny_llama: tuple[Path, LlamaForCausalLM]) -> torch.Tensor:
    """Logits of the tiny model over pages like its activations."""
    return prompt_logits(tiny_llama[0], PROMPT)


@pytest.fixture(scope="module")
def plain(tiny_llama: tuple[Path, LlamaForCausalLM], exact: torch.Tensor) -> torch.Tensor:
    """The same over fp8 pages without scales."""
    logits = prompt_logits(tiny_llama[0], PROMPT, kv_cache_dtype="fp8_e4m3fn")
    assert not torch.equal(logits, exact)
    return logits


@pytest.mark.parametrize(("form", "shape"), [*((form, ()) for form in FORMS), ("vLLM", (1,)), ("one for both", (1,))])
def test_a_checkpoints_scales_are_used(
    form: str, shape: tuple[int, ...], tiny_llama: tuple[Path, LlamaForCausalLM], plain: torch.Tensor, tmp_path: Path
) -> None:
    scale = torch.full(shape, LARGE, dtype=torch.bfloat16)
    write_scaled(tiny_llama[0], tmp_path / "scaled", dict.fromkeys(FORMS[form], scale))
    assert torch.equal(prompt_logits(tmp_path / "scaled", PROMPT, kv_cache_dtype="fp8_e4m3fn"), plain)


def test_without_scales_they_are_1(
    tiny_llama: tuple[Path, LlamaForCausalLM], exact: torch.Tensor, tmp_path: Path
) -> None:
    write_scaled(tiny_llama[0], tmp_path / "bare", {})
    write_scaled(tiny_llama[0], tmp_path / "ones", dict.fromkeys(FORMS["vLLM"], torch.ones(1)))
    bare, ones = (prompt_logits(tmp_path / name, PROMPT, kv_cache_dtype="fp8_e4m3fn") for name in ("bare", "ones"))
    assert torch.equal(bare, ones)
    assert (bare - exact).abs().max() > 1.0, "K and V of this model don't fit"


def test_a_checkpoint_that_is_quantised_for_its_cache_alone_is_served(
    tiny_llama: tuple[Path, LlamaForCausalLM], plain: torch.Tensor, tmp_path: Path
) -> None:
    quantization = {"quant_method": "compressed-tensors", "config_groups": {}, "kv_cache_scheme": KV_SCHEME}
    scales = dict.fromkeys(FORMS["compressed-tensors"], torch.full((1,), LARGE))
    write_scaled(tiny_llama[0], tmp_path / "scaled", scales, quantization_config=quantization)
    assert torch.equal(prompt_logits(tmp_path / "scaled", PROMPT, kv_cache_dtype="fp8_e4m3fn"), plain)


DAMAGED = {
    "nan": ({"k_scale": torch.tensor(math.nan), "v_scale": torch.ones(1)}, "self_attn.k_scale is nan: a scale is"),
    "infinite": ({"kv_scale": torch.tensor(math.inf)}, "self_attn.kv_scale is inf"),
    "zero": ({"k_scale": torch.ones(1), "v_scale": torch.zeros(1)}, "self_attn.v_scale is 0.0"),
    "negative": ({"attn.k_scale": -torch.ones(1), "attn.v_scale": torch.ones(1)}, "attn.k_scale is -1.0"),
    "one a head": ({"k_scale": torch.ones(2), "v_scale": torch.ones(2)}, "k_scale has 2 scales, such as one for each"),
    "no V": ({"k_scale": torch.ones(1)}, "self_attn.k_scale is there, but no scale of V"),
    "no K": ({"v_proj.output_scale": torch.ones(1)}, "v_proj.output_scale is there, but no scale of K"),
    "integers": ({"kv_scale": torch.ones(1, dtype=torch.int32)}, "kv_scale is stored as I32"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_scales_that_are_none_are_refused_where_they_would_be_used(
    case: str, tiny_llama: tuple[Path, LlamaForCausalLM], exact: torch.Tensor, tmp_path: Path
) -> None:
    scales, message = DAMAGED[case]
    write_scaled(tiny_llama[0], tmp_path / "model", scales)
    with pytest.raises(ModelError, match=message):
        prompt_logits(tmp_path / "model", PROMPT, kv_cache_dtype="fp8_e4m3fn")
    if case in ("nan", "integers"):  # nobody looks at them: of damaged values and dtypes one each
        assert torch.equal(prompt_logits(tmp_path / "model", PROMPT), exact)


SCHEMES = {
    "8-bit int, strategy 'tensor'": {"type": "int"},
    "8-bit float, strategy 'attn_head'": {"strategy": "attn_head"},
    "8-bit asymmetric float": {"symmetric": False},
    "4-bit float": {"num_bits": 4},
}


@pytest.mark.parametrize("kind", SCHEMES)
def test_scales_for_another_kind_of_cache_are_refused_by_name(
    kind: str, tiny_llama: tuple[Path, LlamaForCausalLM], tmp_path: Path
) -> None:
    quantization = {"quant_method": "compressed-tensors", "kv_cache_scheme": KV_SCHEME | SCHEMES[kind]}
    write_scaled(tiny_llama[0], tmp_path / "model", {}, quantization_config=quantization)
    with pytest.raises(ModelError, match=f"scales are for a KV cache in {kind}.*leave --kv-cache-dtype out"):
        prompt_logits(tmp_path / "model", PROMPT, kv_cache_dtype="fp8_e4m3fn")
    if kind == "4-bit float":  # whatever they are for, nobody looks at them
        prompt_logits(tmp_path / "model", PROMPT)


def test_a_scheme_of_the_cache_leaves_the_weights_as_they_were_read(
    tiny_llama: tuple[Path, LlamaForCausalLM], tmp_path: Path
) -> None:
    shutil.copytree(tiny_llama[0], tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    quantization = compressed_tensors("float") | {"kv_cache_scheme": KV_SCHEME}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": quantization}))
    config = read_config(tmp_path / "model")
    assert config.stored_scales is not None
    assert config.kv_scheme is not None


@pytest.mark.parametrize(
    ("dtype", "kv_cache_dtype", "name", "itemsize"),
    [
        ("float32", "auto", "float32", 4),
        ("bfloat16", "auto", "bfloat16", 2),
        ("bfloat16", "fp8_e4m3fn", "fp8_e4m3fn", 1),
        ("float32", "fp8_e4m3fn", "fp8_e4m3fn", 1),
    ],
)
def test_as_many_pages_as_the_bytes_hold(
    dtype: Any, kv_cache_dtype: KvCacheDtype, name: str, itemsize: int, tiny_llama: tuple[Path, LlamaForCausalLM]
) -> None:
    room, value_count = 1 << 20, 2 * 2 * 2 * 16 * 64  # of a page: K and V, layers, KV heads, tokens, head dim
    engine, hello = start_engine(
        EngineConfig(
            model_dir=tiny_llama[0], model_id="tiny", socket=Path("unused"), device="cpu", dtype=dtype,
            kv_cache_dtype=kv_cache_dtype, kv_cache_bytes=room,
        )
    )  # fmt: skip
    cache = engine.runner.cache
    assert sum(pages.nbytes for pages in (*cache.k_pages, *cache.v_pages)) == room
    assert (hello.kv_cache_dtype, hello.num_pages) == (name, room // (value_count * itemsize) - 1)


def test_scales_reach_the_triton_backend(tiny_llama: tuple[Path, LlamaForCausalLM], tmp_path: Path) -> None:
    # Not against the cpu backend: where rounding to fp8 carries into the exponent, the interpreter loses the carry.
    write_scaled(tiny_llama[0], tmp_path / "scaled", {"kv_scale": torch.tensor(LARGE)})
    scaled, plain = (
        prompt_logits(directory, PROMPT[:5], kv_cache_dtype="fp8_e4m3fn", backend_name="triton")
        for directory in (tmp_path / "scaled", tiny_llama[0])
    )
    assert torch.equal(scaled, plain)


def test_logprobs_of_the_default_model_move_little() -> None:
    directory = resolve_model(None).directory
    prompt = Tokenizer.from_file(str(directory / "tokenizer.json")).encode(TEXT).ids
    want = prompt_logits(directory, prompt, "bfloat16").log_softmax(-1)
    got = prompt_logits(directory, prompt, "bfloat16", kv_cache_dtype="fp8_e4m3fn").log_softmax(-1)
    divergence = (want.exp() * (want - got)).sum(-1).mean()
    same = (got.argmax(-1) == want.argmax(-1)).float().mean()
    print(f"mean KL divergence {divergence:.5f}, same best token {same:.1%} of {len(prompt)}")
    assert 0 < divergence < 0.05
    assert same > 0.9
