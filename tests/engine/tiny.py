"""A Llama small enough for Triton's interpreter, random but the same each time, and its oracle."""

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from headwater.engine.config import EngineConfig
from headwater.engine.engine import Engine
from headwater.engine.messages import SamplingParams, Submit
from headwater.engine.start import start_engine


def save_tiny_llama(directory: Path, **overrides: object) -> LlamaForCausalLM:
    """Write the model to ``directory`` and return it, fp32."""
    torch.manual_seed(0)
    settings: dict[str, object] = {
        "vocab_size": 320,
        "hidden_size": 96,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "max_position_embeddings": 256,
        "initializer_range": 0.3,  # logits far enough apart that rounding decides nothing
    }
    model = LlamaForCausalLM(LlamaConfig(**{**settings, **overrides})).eval()
    model.save_pretrained(directory)
    return model


def tiny_engine(directory: Path, **overrides: object) -> Engine:
    """An engine over that model in fp32, on the CPU."""
    settings: dict[str, object] = {
        "model_dir": directory,
        "model_id": "tiny",
        "socket": directory / "unused",
        "device": "cpu",
        "dtype": "float32",
        "max_batch_size": 4,
        "max_batch_prefill_tokens": 16,
    }
    engine, _ = start_engine(EngineConfig(**{**settings, **overrides}))
    return engine


def generate(engine: Engine, requests: list[tuple[list[int], SamplingParams]]) -> list[list[int]]:
    """Run all requests at once to their end. Returns the new tokens of each."""
    for request_id, (prompt_ids, sampling) in enumerate(requests):
        failed = engine.submit(0, Submit(request_id, prompt_ids, sampling))
        assert failed is None, failed
    tokens: list[list[int]] = [[] for _ in requests]
    while engine.has_work:
        for step in engine.step().values():
            for new in step.tokens:
                tokens[new.request_id] += new.token_ids
        engine.check()
    return tokens
