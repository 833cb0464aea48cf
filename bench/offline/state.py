"""How many bytes a decoding step has to read: the weights once, and the KV cache of every sequence."""

from msgspec import Struct

from ...engine.models.config import ModelConfig

ITEM_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4, "fp8_e4m3fn": 1}


class State(Struct, frozen=True):
    """Bytes of a model as it runs."""

    weight_bytes: int  # read by every step
    layer_token_bytes: int  # K and V of one token in one layer
    windows: tuple[int, ...]  # per layer; 0: the whole context

    def step_bytes(self, contexts: list[int]) -> int:
        """Read by a step that decodes one token for each sequence.

        Args:
            contexts: tokens that each sequence has in the cache.
        """
        positions = sum(min(context, window or context) for context in contexts for window in self.windows)
        return self.weight_bytes + positions * self.layer_token_bytes


def model_state(config: ModelConfig, weight_bytes: int, cache_dtype: str) -> State:
    """Of a model whose linears have ``weight_bytes``: norms are next to nothing, and an embedding is only looked up."""
    return State(
        weight_bytes,
        2 * config.num_kv_heads * config.head_dim * ITEM_BYTES[cache_dtype],
        tuple(layer.window for layer in config.layers),
    )
