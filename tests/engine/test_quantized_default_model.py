"""--quantize on the default model: how far the logits move, as figures with a bound."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from headwater.engine.checkpoint.resolve import resolve_model
from headwater.engine.models.weights import QuantizeName

from .forward import prompt_logits

TEXT = (
    "A river begins at its headwater, often a spring or a lake high in the mountains. From there it runs downhill, "
    "joined by other streams, until it is wide enough to carry boats. In 1869 John Wesley Powell led nine men down "
    "the Colorado; three months later six of them came out at the other end.\n\n"
    "def gcd(a, b):\n    while b:\n        a, b = b, a % b\n    return a\n\n"
    "Question: What is the capital of France?\nAnswer: The capital of France is Paris."
)


@pytest.fixture(scope="module")
def directory() -> Path:
    return resolve_model(None).directory


@pytest.fixture(scope="module")
def prompt(directory: Path) -> list[int]:
    return Tokenizer.from_file(str(directory / "tokenizer.json")).encode(TEXT).ids


@pytest.fixture(scope="module")
def exact(directory: Path, prompt: list[int]) -> torch.Tensor:
    """Log-probabilities of the unquantised model in fp32, [tokens, vocab]."""
    return prompt_logits(directory, prompt).log_softmax(-1)


# Measured: the mean |difference| of the text's own tokens' logprobs, and the share of positions with the same best
# token; bf16 alone moves them by 0.011 and keeps 99 %. (docs/models.md)
@pytest.mark.parametrize(("quantize", "difference", "agreement"), [("int8", 0.06, 0.95), ("fp8", 0.2, 0.85)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_quantised_weights_move_logprobs_little(
    directory: Path, prompt: list[int], exact: torch.Tensor, dtype: str, quantize: QuantizeName, difference: float,
    agreement: float,
) -> None:  # fmt: skip
    got = prompt_logits(directory, prompt, dtype, quantize).log_softmax(-1)
    drawn = torch.tensor(prompt[1:])[:, None]
    off = (got[:-1].gather(1, drawn) - exact[:-1].gather(1, drawn)).abs().mean()
    same = (got.argmax(-1) == exact.argmax(-1)).float().mean()
    print(f"{quantize}, {dtype}: mean |logprob difference| {off:.4f}, greedy agreement {same:.1%} of {len(prompt)}")
    assert 0 < off < difference
    assert same > agreement
