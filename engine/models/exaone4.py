"""EXAONE 4 (arXiv 2507.11407): norms after attention and MLP alone, a QK-norm; in the 32B model windows, and no
rotation in the layers without one.
"""

from ..checkpoint.errors import ModelError
from .config import Fields, HfConfig, LayerConfig, ModelConfig, base_config, rope_config
from .olmo import NORMS_AFTER
from .rope_config import NO_ROPE


class Exaone4Fields(HfConfig, kw_only=True):
    rms_norm_eps: float = 1e-5

    @classmethod
    def fields(cls, said: Fields) -> Fields:
        """LLLG is 4."""
        pattern = said.get("sliding_window_pattern")
        if not isinstance(pattern, str):
            return said
        if pattern != "L" * (len(pattern) - 1) + "G":
            raise ModelError(f"sliding_window_pattern {pattern} is not supported (known: L once or more, then G)")
        return {**said, "sliding_window_pattern": len(pattern)}


def exaone4(hf: Exaone4Fields) -> ModelConfig:
    rope, window, pattern = rope_config(hf), hf.sliding_window or 0, hf.sliding_window_pattern or 4
    kinds = hf.layer_types or [
        "sliding_attention" if (i + 1) % pattern else "full_attention" for i in range(hf.num_hidden_layers)
    ]
    windowed, full = LayerConfig(rope, window), LayerConfig(NO_ROPE if window else rope)
    return base_config(
        hf,
        layers=tuple(windowed if window and kind == "sliding_attention" else full for kind in kinds),
        names=NORMS_AFTER,
        qk_norm="head",
    )
