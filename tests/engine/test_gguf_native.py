"""A GGUF is served as it is: the logits are those of its weights, which nothing widens."""

from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from transformers import AutoModelForCausalLM

from headwater.engine.checkpoint.conversion_cache import cached_conversion
from headwater.engine.checkpoint.convert import convert
from headwater.engine.checkpoint.errors import ModelError
from headwater.engine.checkpoint.gguf_checkpoint import GgufCheckpoint
from headwater.engine.checkpoint.resolve import find_default_gguf
from headwater.engine.models.families import read_config

from .checkpoint.conftest import HIDDEN, LAYERS, WIDTH, default_metadata, llama_tensors, write_gguf
from .forward import prompt_logits

PROMPT = [1, 4, 9, 3, 3, 7, 2, 8]
KINDS = GGMLQuantizationType


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def oracle(directory: Path, prompt: list[int]) -> torch.Tensor:
    """Of a model whose matrices are what the GGUF describes, in fp32."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    checkpoint = GgufCheckpoint(directory)
    with torch.inference_mode():
        for name, parameter in model.named_parameters():
            if name in checkpoint:
                parameter.copy_(checkpoint.get(name, parameter.shape))
        return model(torch.tensor([prompt])).logits[0]


def transformers_directory(gguf: Path, directory: Path) -> Path:
    """The conversion, and beside it the file that is served, for the oracle."""
    convert(gguf, directory)
    prepared = cached_conversion(gguf)
    for name in ("model.gguf", "gguf_tensors.json"):
        (directory / name).symlink_to(prepared / name)
    return directory


# Of 4 bits is the default model, below.
@pytest.mark.parametrize("kind", [KINDS.F16, KINDS.BF16, KINDS.Q8_0, KINDS.Q5_1], ids=lambda kind: kind.name)
def test_logits_are_those_of_the_files_weights(tmp_path: Path, kind: GGMLQuantizationType) -> None:
    gguf = write_gguf(tmp_path / "tiny.gguf", llama_tensors(), default_metadata(), kind)
    got = prompt_logits(cached_conversion(gguf), PROMPT)
    want = oracle(transformers_directory(gguf, tmp_path / "converted"), PROMPT)
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)


def test_experts_are_read_as_they_are_packed(tmp_path: Path) -> None:
    tensors = {name: values for name, values in llama_tensors().items() if ".mlp." not in name}
    draw = np.random.default_rng(1).standard_normal
    for layer in range(LAYERS):
        tensors[f"blk.{layer}.ffn_gate_inp.weight"] = draw((4, HIDDEN)).astype(np.float32)
        for part, shape in (("gate", (4, WIDTH, HIDDEN)), ("up", (4, WIDTH, HIDDEN)), ("down", (4, HIDDEN, WIDTH))):
            tensors[f"blk.{layer}.ffn_{part}_exps.weight"] = draw(shape).astype(np.float32)
    metadata = default_metadata() | {"llama.expert_count": 4, "llama.expert_used_count": 2}
    gguf = write_gguf(tmp_path / "tiny.gguf", tensors, metadata, KINDS.Q8_0)
    directory = cached_conversion(gguf)
    expert = GgufCheckpoint(directory).blocks("model.layers.1.block_sparse_moe.experts.3.w2.weight", (HIDDEN, WIDTH))
    assert expert is not None
    want = torch.from_numpy(tensors["blk.1.ffn_down_exps.weight"][3])
    assert torch.linalg.norm(expert.take(slice(None)).dequantized() - want) < 0.01 * torch.linalg.norm(want)
    assert prompt_logits(directory, PROMPT).isfinite().all()


def test_the_default_model_is_its_file(tmp_path: Path) -> None:
    gguf = find_default_gguf()
    prompt = list(range(500, 540))
    got = prompt_logits(cached_conversion(gguf), prompt)
    want = oracle(transformers_directory(gguf, tmp_path / "converted"), prompt)
    torch.testing.assert_close(got, want, rtol=1e-3, atol=2e-3)
    assert torch.equal(got.argmax(1), want.argmax(1))


def test_quantize_rounds_what_the_file_describes(tmp_path: Path) -> None:
    gguf = write_gguf(tmp_path / "tiny.gguf", llama_tensors(), default_metadata(), KINDS.Q8_0)
    directory = cached_conversion(gguf)
    rounded, exact = (prompt_logits(directory, PROMPT, quantize=name) for name in ("int8", None))
    assert not torch.equal(rounded, exact)
    assert (rounded - exact).abs().mean() < 0.1 * exact.std()


def test_a_file_that_was_cut_later_is_refused(tmp_path: Path) -> None:
    gguf = write_gguf(tmp_path / "tiny.gguf", llama_tensors(), default_metadata(), KINDS.Q4_0)
    directory = cached_conversion(gguf)
    gguf.write_bytes(gguf.read_bytes()[:-5000])
    read_config(directory)
    with pytest.raises(ModelError, match=r"tiny.gguf: .* is cut off. Download the file again"):
        GgufCheckpoint(directory)
