"""--quantize on the default model: how far the logits move, as figures with a bound."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from headwater.engine.checkpoint.quantized import QuantizeName
from headwater.engine.checkpoint.resolve import resolve_model

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


# As measured, with room: 0.060 and 96 % for int8, 0.21 and 88 % for fp8, whose 3 bits of mantissa are coarser than 127
# steps to the largest value of an output; transformers with the same weights gives the same figures.
@pytest.mark.parametrize(
    ("quantize", "dtype", "difference", "agreement"),
    [
        ("int8", "float32", 0.08, 0.92),
        ("int8", "bfloat16", 0.08, 0.92),
        ("fp8", "float32", 0.25, 0.84),
        ("int4", "float32", 0.25, 0.80),
    ],
)
def test_quantised_weights_move_logprobs_little(
    directory: Path,
    prompt: list[int],
    exact: torch.Tensor,
    quantize: QuantizeName,
    dtype: str,
    difference: float,
    agreement: float,
) -> None:
    got = prompt_logits(directory, prompt, dtype, quantize).log_softmax(-1)
    drawn = torch.tensor(prompt[1:])[:, None]
    off = (got[:-1].gather(1, drawn) - exact[:-1].gather(1, drawn)).abs().mean()
    same = (got.argmax(-1) == exact.argmax(-1)).float().mean()
    perplexity = (-got[:-1].gather(1, drawn).mean()).exp()
    print(f"perplexity {perplexity:.3f}; exact {(-exact[:-1].gather(1, drawn).mean()).exp():.3f}")
    print(f"{quantize}, {dtype}: mean |logprob difference| {off:.4f}, greedy agreement {same:.1%} of {len(prompt)}")
    assert 0 < off < difference
    assert same > agreement
