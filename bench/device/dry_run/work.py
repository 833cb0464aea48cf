"""What a device was asked to do."""

from dataclasses import dataclass
from typing import Literal

import torch

from ..audit.launches import Launch

# Of copies, those with "and wait" keep the host until the device has come to them.
Kind = Literal[
    "triton", "linear", "torch", "upload", "upload and wait", "download", "download and wait", "wait",
]  # fmt: skip
LAUNCHES: tuple[Kind, ...] = ("triton", "linear", "torch")
WAITS: tuple[Kind, ...] = ("upload and wait", "download and wait", "wait")


@dataclass
class Work:
    """One thing the device was asked to do."""

    kind: Kind
    name: str
    tensors: dict[str, torch.Tensor]  # what a Triton kernel was given, by argument; of a linear: its weight
    traffic_bytes: int  # of torch's kernels and copies: inputs and outputs, each once; 0 for Triton's
    launch: Launch | None = None  # of Triton's
