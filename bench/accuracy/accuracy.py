"""`headwater bench accuracy`: what a setting costs, as the distance of its next-token distributions from another's.

The text is cut into windows, each computed from nothing. Of each the second half is evaluated, so that every token has
half a window before it at least: llama.cpp's rule, which makes figures those of its `llama-perplexity`.
"""

import sys
from pathlib import Path
from typing import Literal, Protocol

import msgspec
import torch
from tokenizers import Tokenizer

from ..emit import emit
from ..machine import origin
from ..options import ReportOptions
from ..report import Report, Table
from .comparison import Comparison, Figures, figures_of
from .engine_logprobs import EngineLogprobs, Settings
from .logits_file import LogitsFile

_LOT = 64  # tokens whose distributions are in memory at a time


class Distributions(Protocol):
    """Next-token distributions over a text; see EngineLogprobs and LogitsFile."""

    vocab_size: int
    least_logprob: float  # what is no more likely is not known

    def read(self, window: int, token_ids: list[int]) -> None: ...

    def logprobs(self, start: int, end: int) -> torch.Tensor: ...


def accuracy(
    settings: Settings,
    baseline_settings: Settings,
    baseline_logits: Path | None,
    text: Path | None,
    tokens: int,
    context: int,
    device: Literal["cpu", "cuda"] | None,
    threads: int | None,
    report_options: ReportOptions,
) -> None:
    """Compare and report. Raises ModelError, ValueError.

    Args:
        baseline_logits: the baseline in place of ``baseline_settings``; it has its own text and context.
        tokens: of the text, at most.
        context: tokens of a window.
    """
    if (text is None) == (baseline_logits is None):
        raise ValueError("give --text or --baseline-logits, which has its own text")
    file = None if baseline_logits is None else LogitsFile(baseline_logits)
    context = context if file is None else file.windows.shape[1]
    measured = EngineLogprobs(settings, context, device, threads)
    tokenizer = Tokenizer.from_file(str(measured.directory / "tokenizer.json"))
    baseline: Distributions = file or EngineLogprobs(baseline_settings, context, device, threads)
    if baseline.vocab_size != measured.vocab_size:
        raise ValueError(f"vocabularies of {baseline.vocab_size} and {measured.vocab_size} tokens: another model's")
    if file is not None:
        windows = file.windows[: max(1, tokens // context)].tolist()
    else:
        assert text is not None
        windows = _cut(tokenizer, text, tokens, context)
    bos = _bos(tokenizer)
    comparison = Comparison()
    for index, window in enumerate(windows):
        # In the place of the first token, as llama.cpp has it, so that windows are of one length.
        _compare(comparison, baseline, measured, index, bos + window[len(bos) :])
        print(f"\r{index + 1} of {len(windows)} windows", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    emit(
        _report(figures_of(comparison), settings, baseline_settings, baseline_logits, measured, context), report_options
    )


def _bos(tokenizer: Tokenizer) -> list[int]:
    """What stands before every text; empty if nothing does."""
    whole, bare = tokenizer.encode("a").ids, tokenizer.encode("a", add_special_tokens=False).ids
    return whole[:1] if whole[:1] != bare[:1] else []


def _cut(tokenizer: Tokenizer, text: Path, tokens: int, context: int) -> list[list[int]]:
    ids = tokenizer.encode(text.read_text(encoding="utf-8"), add_special_tokens=False).ids[:tokens]
    if len(ids) < context:
        raise ValueError(f"{text}: {len(ids)} tokens are read, fewer than a window of {context}")
    return [ids[start : start + context] for start in range(0, len(ids) - context + 1, context)]


def _compare(
    comparison: Comparison, baseline: Distributions, measured: Distributions, index: int, window: list[int]
) -> None:
    for each in (baseline, measured):
        each.read(index, window)
    targets = window[len(window) // 2 + 1 :]
    for start in range(0, len(targets), _LOT):
        lot = targets[start : start + _LOT]
        end = start + len(lot)
        comparison.add(baseline.logprobs(start, end), measured.logprobs(start, end), lot, baseline.least_logprob)


def _report(
    figures: Figures,
    settings: Settings,
    baseline_settings: Settings,
    baseline_logits: Path | None,
    measured: EngineLogprobs,
    context: int,
) -> Report:
    model_id = measured.hello.model_id
    baseline = _words(baseline_settings) if baseline_logits is None else baseline_logits.name
    rows = [
        ["tokens", f"{figures.tokens:,}"],
        ["mean KL divergence", f"{figures.mean_divergence:.6f} ± {figures.divergence_error:.6f}"],
        ["99 % of KL divergences below", f"{figures.p99_divergence:.5f}"],
        ["largest KL divergence", f"{figures.max_divergence:.5f}"],
        ["perplexity of the baseline", f"{figures.baseline_perplexity:.4f}"],
        ["perplexity", f"{figures.perplexity:.4f}"],
        ["mean difference of the text's logprobs", f"{figures.mean_logprob_difference:.5f}"],
        ["same best token", f"{figures.same_best_share:.2%}"],
    ]
    return Report(
        kind="accuracy",
        title=f"headwater bench accuracy: {model_id}",
        origin=origin(),
        facts=[("Measured", _words(settings)), ("Baseline", baseline), ("Windows", f"{context} tokens")],
        tables=[Table(f"{model_id}: {_words(settings)}, against {baseline}", ["", "natural logs"], rows)],
        plots=[],
        notes=[],
        document={
            "model_id": model_id,
            "settings": msgspec.to_builtins(settings),
            "baseline": msgspec.to_builtins(baseline_settings) if baseline_logits is None else str(baseline_logits),
            "context": context,
            "figures": msgspec.to_builtins(figures),
        },
    )


def _words(settings: Settings) -> str:
    """What of the settings isn't the default."""
    changed = {name: value for name, value in msgspec.to_builtins(settings).items() if value not in (None, "auto")}
    return ", ".join(f"{name} {value}" for name, value in changed.items()) or "as served by default"
