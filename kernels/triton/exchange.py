"""What ranks of this backend exchange: nothing yet."""

import torch

from .. import Unsupported
from ..exchange import Exchange


def new_exchange(rank: int, size: int, memory: torch.Tensor | None) -> Exchange:
    """Raises Unsupported."""
    del rank, memory
    raise Unsupported(f"the triton backend serves a model on one device, not on {size}: --backend cpu has shards")
