"""Where keys and values live: two tensors per layer, cut into pages."""

import math
import mmap

import torch

from .config import ModelConfig


class KVCache:
    """Pages of every layer. Page 0 is the trash page for padding rows."""

    def __init__(
        self, config: ModelConfig, num_pages: int, page_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        """``num_pages`` counts the trash page."""
        self.page_size = page_size
        self.num_pages = num_pages
        shape = (2, config.num_layers, num_pages, config.num_kv_heads, page_size, config.head_dim)
        storage = _zeros(shape, dtype) if device.type == "cpu" else torch.zeros(shape, dtype=dtype, device=device)
        self.device = device
        self.page_bytes = page_bytes(config, page_size, dtype)
        # uint8 [2 * layers, pages, bytes of a page in a layer]
        self._boxes = storage.view(torch.uint8).view(2 * config.num_layers, num_pages, -1)
        self.k_pages = list(storage[0])  # per layer [pages, kv_heads, page_size, head_dim]
        self.v_pages = list(storage[1])

    def boxes(self, page: int) -> torch.Tensor:
        """What a page holds in all layers, K and then V: uint8 [2 * layers, bytes of it in a layer]."""
        return self._boxes[:, page]


def _zeros(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Zeros that cost no memory until they are written to: torch.zeros would fill gigabytes, 1.4 s for each."""
    # Not in huge pages: attention is no faster, and a first token in a new one would wait until all are cleared.
    anonymous = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(anonymous, dtype=dtype).view(shape)


def page_bytes(config: ModelConfig, page_size: int, dtype: torch.dtype) -> int:
    """Bytes of one page over all layers, K and V."""
    return 2 * config.num_layers * config.num_kv_heads * page_size * config.head_dim * dtype.itemsize
