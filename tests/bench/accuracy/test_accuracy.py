"""`bench accuracy`: distributions against transformers', figures against torch's, files against llama.cpp's form."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaForCausalLM
from typer.testing import CliRunner

from headwater.bench.accuracy.comparison import Comparison, figures_of
from headwater.bench.accuracy.engine_logprobs import EngineLogprobs, Settings
from headwater.bench.accuracy.logits_file import LogitsFile
from headwater.bench.cli import app

from ...engine.tiny import save_tiny_llama

CONTEXT = 600  # three chunks


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LlamaForCausalLM]:
    directory = tmp_path_factory.mktemp("tiny")
    Tokenizer(WordLevel({"a": 0})).save(str(directory / "tokenizer.json"))
    return directory, save_tiny_llama(directory, max_position_embeddings=CONTEXT)


def test_the_engines_distributions_are_those_of_transformers(tiny: tuple[Path, LlamaForCausalLM]) -> None:
    directory, model = tiny
    engine = EngineLogprobs(Settings(model=str(directory), dtype="float32"), CONTEXT, "cpu", None)
    for seed in range(2):
        window = torch.randint(320, (CONTEXT,), generator=torch.Generator().manual_seed(seed))
        engine.read(seed, window.tolist())
        with torch.inference_mode():
            want = model(window[None]).logits[0, CONTEXT // 2 : -1].log_softmax(-1)
        got = torch.cat([engine.logprobs(0, 100), engine.logprobs(100, CONTEXT - 1 - CONTEXT // 2)])
        torch.testing.assert_close(got.float(), want, rtol=0.0, atol=2e-3)


def test_figures_are_torchs() -> None:
    torch.manual_seed(0)
    baseline, measured = (torch.randn(50, 30, dtype=torch.float64).log_softmax(-1) for _ in range(2))
    baseline[3, 7] = -torch.inf  # has no share
    tokens = torch.randint(7, (50,))
    comparison = Comparison()
    for start, end in ((0, 20), (20, 50)):
        comparison.add(baseline[start:end], measured[start:end], tokens[start:end].tolist())
    figures = figures_of(comparison)
    kl = torch.nn.functional.kl_div(measured, baseline, reduction="none", log_target=True).nan_to_num().sum(-1)
    assert figures.tokens == 50
    assert figures.mean_divergence == pytest.approx(kl.mean().item())
    assert figures.divergence_error == pytest.approx(kl.std(correction=0).item() / 50**0.5)
    assert figures.max_divergence == pytest.approx(kl.max().item())
    loss = torch.nn.functional.nll_loss(measured, tokens)
    assert figures.perplexity == pytest.approx(loss.exp().item())
    assert figures.same_best_share == (baseline.argmax(-1) == measured.argmax(-1)).double().mean().item()


def write_as_llama_cpp(path: Path, windows: np.ndarray, logits: np.ndarray) -> None:
    """As its perplexity.cpp does it, value by value. ``logits``: fp32 [windows, rows, vocab]."""
    with path.open("wb") as file:
        file.write(b"_logits_" + struct.pack("<3i", windows.shape[1], logits.shape[2], len(windows)))
        file.write(windows.astype("<i4").tobytes())
        for row in logits.reshape(-1, logits.shape[2]):
            top = float(row.max())
            low = max(float(row.min()), top - 16)
            log_sum = float(np.log(np.exp(row.astype(np.float64) - top).sum()))
            scale = (top - low) / 65535
            stored = [round((float(value) - low) / scale) if value > low else 0 for value in row]
            file.write(struct.pack("<2f", scale, low - top - log_sum))
            file.write(struct.pack(f"<{len(stored)}H", *stored) + b"\0\0" * (len(stored) % 2))


def test_a_file_of_llama_cpp_is_read(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    windows, logits = random.integers(0, 33, (2, 9)), random.normal(0, 9, (2, 4, 33)).astype(np.float32)
    write_as_llama_cpp(tmp_path / "logits", windows, logits)
    file = LogitsFile(tmp_path / "logits")
    assert file.vocab_size == 33
    assert file.windows.tolist() == windows.tolist()
    want = torch.from_numpy(logits).double().log_softmax(-1)
    want = want.maximum(want.amax(-1, keepdim=True) - 16)
    for index in (1, 0):
        file.read(index, windows[index].tolist())
        torch.testing.assert_close(file.logprobs(1, 4), want[index, 1:4], rtol=0.0, atol=16 / 65535)


def test_unlikely_tokens_that_llama_cpp_raised_are_left_out_of_divergences(tmp_path: Path) -> None:
    logits = np.full((1, 4, 20_000), -30, np.float32)  # all of them raised to -16: half a percent of the whole
    logits[..., :9] = np.arange(9)
    write_as_llama_cpp(tmp_path / "logits", np.zeros((1, 9), int), logits)
    file = LogitsFile(tmp_path / "logits")
    comparison = Comparison()
    measured = torch.from_numpy(logits[0]).double().log_softmax(-1)
    comparison.add(file.logprobs(0, 4), measured, [0, 1, 2, 3], file.least_logprob)
    assert figures_of(comparison).mean_divergence == pytest.approx(0, abs=16 / 65535)


def test_what_is_no_such_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "logits"
    write_as_llama_cpp(path, np.zeros((1, 8), int), np.zeros((1, 3, 4), np.float32) + np.arange(4, dtype=np.float32))
    whole = path.read_bytes()
    for damaged, message in (
        (whole[:-1], "cut off"),
        (whole[:12], "not what `llama-perplexity"),
        (b"GGUF" + whole[4:], "not what `llama-perplexity"),
        (whole[:8] + struct.pack("<i", -8) + whole[12:], "it is damaged"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=message):
            LogitsFile(path)


def run(tmp_path: Path, *arguments: str) -> dict[str, float]:
    result = CliRunner().invoke(app, ["accuracy", *arguments, "--json", str(tmp_path / "report.json")])
    assert result.exit_code == 0, result.output
    figures: dict[str, float] = json.loads((tmp_path / "report.json").read_text())["figures"]
    return figures


def test_the_command_compares_settings_and_files(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("The headwater of a river is the place from which the water in it begins to flow. " * 20)
    cut = ("--text", str(text), "--tokens", "140", "--context", "64")
    same = run(tmp_path, *cut)
    assert (same["tokens"], same["mean_divergence"], same["same_best_share"]) == (2 * 31, 0.0, 1.0)
    fp8 = run(tmp_path, *cut, "--kv-cache-dtype", "fp8_e4m3fn")
    assert 0 < fp8["mean_divergence"] < 0.1
    assert fp8["baseline_perplexity"] == same["perplexity"]

    engine = EngineLogprobs(Settings(), 64, None, None)
    windows = np.arange(1000, 1128).reshape(2, 64)
    logits = []
    for index, window in enumerate(windows.tolist()):
        engine.read(index, window)
        logits.append(engine.logprobs(0, 31).float().numpy())
    write_as_llama_cpp(tmp_path / "logits", windows, np.stack(logits))
    from_file = run(tmp_path, "--baseline-logits", str(tmp_path / "logits"))
    assert from_file["tokens"] == 2 * 31
    assert abs(from_file["mean_divergence"]) < 1e-4
    assert from_file["perplexity"] == pytest.approx(from_file["baseline_perplexity"], rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--text or --baseline-logits"),
        (("--text", "text", "--baseline-logits", "text"), "--text or --baseline-logits"),
        (("--text", "text"), "4 tokens are read, fewer than a window of 1024"),
    ],
)
def test_what_cannot_be_meant_is_told(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text").write_text("Hello, how are")
    result = CliRunner().invoke(app, ["accuracy", *arguments])
    assert result.exit_code == 2
    assert message in result.output
