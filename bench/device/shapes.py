"""Shapes of real models, for the audit and the GPU command."""

from typing import NamedTuple


class Model(NamedTuple):
    """The shapes of a model, as far as a kernel sees them."""

    name: str
    q_heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    intermediate: int
    window: int = 0
    softcap: float = 0.0
    qk_norm: bool = False
    fp8_cache: bool = False
    experts: int = 0  # 0: a plain MLP
    slots: int = 0  # experts that a row goes to
    expert_width: int = 0
    expert_blocks: str = "Q4_K"  # see blocks.py
    sinks: bool = False


LLAMA_8B = Model("llama-3.1-8b", 32, 8, 128, 4096, 14336)  # everywhere where nothing else is said
LLAMA_3_VOCAB = 128256
MODELS = (
    Model("smollm2-135m", 9, 3, 64, 576, 1536),
    LLAMA_8B,
    LLAMA_8B._replace(name="llama-3.1-8b-fp8-cache", fp8_cache=True),
    Model("qwen3-8b", 32, 8, 128, 4096, 12288, qk_norm=True),
    Model("qwen3-30b-a3b", 32, 4, 128, 2048, 6144, qk_norm=True, experts=128, slots=8, expert_width=768),
    Model(
        "gpt-oss-20b", 64, 8, 64, 2880, 2880, window=128, experts=32, slots=4, expert_width=2880,
        expert_blocks="MXFP4", sinks=True,
    ),
    Model("qwen2.5-7b", 28, 4, 128, 3584, 18944),
    Model("phi-2", 32, 32, 80, 2560, 10240),
    Model("phi-3-mini", 32, 32, 96, 3072, 8192),
    Model("gemma-2-9b", 16, 8, 256, 3584, 14336, window=4096, softcap=50.0),
    Model("gemma-3-4b", 8, 4, 256, 2560, 10240, window=1024, qk_norm=True),
)  # fmt: skip
