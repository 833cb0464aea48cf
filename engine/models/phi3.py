"""Phi-3 (arXiv 2404.14219): Llama with fused projections, LongRoPE and, in Phi-4-mini, heads rotated in part.

LongRoPE has two sets of divisors, one for sequences that fit the original context and one for longer ones, and a
sequence that grows over the border would need all its keys again. The first set is used and the context is the
original one: so a token depends on its own request alone, and is what transformers gives for it.
"""

from .config import HfConfig, ModelConfig, base_config, same_layers
from .names import Names

FUSED = Names(qkv=("qkv_proj",), up=("gate_up_proj",))


def phi3(hf: HfConfig) -> ModelConfig:
    return base_config(hf, layers=same_layers(hf, hf.sliding_window or 0), names=FUSED)
