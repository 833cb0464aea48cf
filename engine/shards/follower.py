"""What a rank that is not rank 0 does: the model's part, its cache, and the recorded programs."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ...kernels import Program, Unsupported
from ..checkpoint.errors import ModelError
from ..checkpoint.peft import read_adapter
from ..limits import Limits
from ..model_parts import plan_model
from ..model_step import ModelStep, ScoredRows
from .memory import map_memory, resident_bytes
from .messages import Launch, PutAdapter, ShardConfig, ShardLoaded


class Follower:
    """One rank."""

    def __init__(self, config: ShardConfig) -> None:
        """Loads the weights. Raises ModelError."""
        self._plan = plan_model(config.engine, config.rank)
        self._model = self._plan.load(config.rank, map_memory(config.memory_fd))
        if self._plan.device.type == "cpu":
            torch.set_num_threads(1)
        self._programs: list[Program] = []

    def loaded(self, begin: float) -> ShardLoaded:
        """``begin``: of the process, time.monotonic()."""
        return ShardLoaded(self._model.linear_bytes, resident_bytes(), time.monotonic() - begin)

    @torch.inference_mode()
    def begin(self, limits: Limits) -> None:
        """Record what rank 0's Runner records, in its order, but for what only rank 0 does. Raises ModelError."""
        plan, model = self._plan, self._model
        self._programs.clear()  # of an engine that was made to be measured
        try:
            step = ModelStep(model, plan.backend, limits, plan.dtypes, plan.device)
        except Unsupported as error:
            raise ModelError(str(error)) from error
        step.capture_bodies(self._capture, lambda _: None)
        self._capture(step.logits, step.head_rows)
        scored = ScoredRows(model, step.hidden, limits, plan.device)
        self._capture(scored.logits, (scored.lot,))
        self._step = step  # the programs read its memory

    @torch.inference_mode()
    def launch(self, launch: Launch) -> None:
        """Behind all launches before; doesn't wait."""
        self._programs[launch.program].launch(launch.rows, launch.sequences)

    def put_adapter(self, put: PutAdapter) -> None:
        """Read an adapter, which rank 0 has just read. Raises ModelError."""
        adapters = self._model.adapters
        assert adapters is not None
        adapters.put(put.slot, adapters.pack(read_adapter(Path(put.adapter.path), adapters.linears)))

    def clear_adapter(self, slot: int) -> None:
        """Empty a slot that no row of a later launch has."""
        assert self._model.adapters is not None
        self._model.adapters.clear(slot)

    def _capture(self, function: Callable[[int], object], sizes: Sequence[int]) -> Program:
        self._programs.append(self._plan.backend.capture(function, sizes))
        return self._programs[-1]
