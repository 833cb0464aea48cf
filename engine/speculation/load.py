"""The draft model: from a directory to a guesser, and what it must have in common with the model that is served."""

from dataclasses import dataclass
from pathlib import Path

import torch
from msgspec.structs import replace

from ...kernels import Backend, Unsupported
from ..checkpoint.errors import ModelError
from ..checkpoint.tokenizer_file import read_tokenizer
from ..config import EngineConfig, max_guesses
from ..limits import Limits
from ..models.config import ModelConfig
from ..models.decoder import DecoderModel
from ..models.dtypes import Dtypes, choose_dtypes
from ..models.families import read_config
from ..models.kv_cache import page_bytes
from ..models.load import load_model
from ..runner import Runner
from .draft import Draft


@dataclass
class LoadedDraft:
    """A draft model whose cache waits for the number of pages."""

    directory: Path
    model: DecoderModel
    backend: Backend
    dtypes: Dtypes
    device: torch.device
    page_bytes: int

    def reason(self, config: EngineConfig, limits: Limits) -> str:
        """A line for the start-up log."""
        own, cache = self.model.config, limits.num_pages * self.page_bytes
        return (
            f"draft model: {config.speculative_model}, {own.architecture} of {own.num_layers} layers; up to "
            f"{max_guesses(config)} guesses for a sequence in a step, {cache / 2**20:.0f} MiB of the KV cache"
        )

    def guesser(self, config: EngineConfig, limits: Limits) -> Draft:
        """With ``limits`` of the model that is served. Raises ModelError."""
        own = replace(
            limits,
            max_samples=limits.max_sequences,
            max_total_tokens=min(limits.max_total_tokens, self.model.config.max_positions),
        )
        try:
            runner = Runner(self.model, self.backend, own, self.dtypes, self.device)
        except Unsupported as error:
            raise ModelError(f"{self.directory}: {error}") from error
        return Draft(runner, own, max_guesses(config), always=config.speculate_always)


def load_draft(config: EngineConfig, model: ModelConfig, backend: Backend, device: torch.device) -> LoadedDraft:
    """Load ``config.speculative_model`` to guess for ``model``. Raises ModelError if the two do not fit."""
    directory = config.speculative_model
    assert directory is not None
    own = read_config(directory)
    check_draft(directory, own, config.model_dir, model)
    if own.vocab_size != model.vocab_size:
        own = replace(own, vocab_size=model.vocab_size, stored_vocab_size=own.vocab_size)
    dtypes = choose_dtypes(backend, config.dtype or own.dtype, config.activation_dtype, config.kv_cache_dtype)
    positions = min(config.max_total_tokens or model.max_positions, own.max_positions)
    rounded = config.quantize if config.quantize in ("int8", "fp8", "int4") and own.stored_form is None else None
    loaded = load_model(directory, own, backend, dtypes, device, positions, rounded)
    per_page = page_bytes(own, config.page_size, dtypes.pages)
    return LoadedDraft(directory, loaded, backend, dtypes, device, per_page)


def check_draft(directory: Path, draft: ModelConfig, model_dir: Path, model: ModelConfig) -> None:
    """A guess is a token id: both models must mean the same by it. Raises ModelError, which names a difference.

    Matrices may have rows beyond the tokenizer's tokens, one model more than the other.
    """
    files = [each / "tokenizer.json" for each in (directory, model_dir)]
    if not any(file.exists() for file in files):
        theirs, ours = ({}, {})
    else:
        theirs, ours = (_tokens(file) for file in files)
    differing = sorted(token_id for token_id in {*theirs, *ours} if theirs.get(token_id) != ours.get(token_id))
    if differing:
        first = differing[0]
        raise ModelError(
            f"--speculative-model {directory}: another tokenizer: token {first} is {theirs.get(first)!r}, for the "
            f"model {ours.get(first)!r} ({len(differing)} tokens differ)"
        )
    last = max(ours, default=max(draft.vocab_size, model.vocab_size) - 1)
    if last >= min(draft.vocab_size, model.vocab_size):
        raise ModelError(
            f"--speculative-model {directory}: its vocabulary has {draft.vocab_size} tokens, that of the model "
            f"{model.vocab_size}"
        )


def _tokens(file: Path) -> dict[int, str]:
    return {token_id: token for token, token_id in read_tokenizer(file).get_vocab(with_added_tokens=True).items()}
