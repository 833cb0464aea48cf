"""How many bytes a decoding step has to read: the weights once, and the KV cache of every sequence."""

from pathlib import Path

from msgspec import Struct
from safetensors import safe_open

from ..engine.models import ModelConfig

ITEM_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}


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


def model_state(directory: Path, config: ModelConfig, dtype: str, cache_dtype: str) -> State:
    """Count from the checkpoint's headers. An embedding that isn't the head as well is only looked up, not read."""
    elements = 0
    for file in sorted(directory.glob("*.safetensors")):
        with safe_open(file, framework="numpy") as tensors:
            for name in tensors.keys():  # noqa: SIM118  not a mapping
                if config.tie_embeddings or not name.endswith("embed_tokens.weight"):
                    count = 1
                    for size in tensors.get_slice(name).get_shape():
                        count *= size
                    elements += count
    return State(
        elements * ITEM_BYTES[dtype],
        2 * config.num_kv_heads * config.head_dim * ITEM_BYTES[cache_dtype],
        tuple(layer.window for layer in config.layers),
    )
