"""Rank 0's side: starts the other ranks, tells them what to launch, and ends with the first of them that ends.

A program that rank 0 launches is launched by all: one write to each rank's pipe. Step inputs, partial sums and logits
go through shared memory, within the programs (kernels/exchange.py).
"""

import logging
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Sequence

from ...kernels import Program
from ..checkpoint.errors import ModelError
from ..config import EngineConfig, encode_config
from ..frames import FrameReader, encode_frame
from ..limits import Limits
from ..messages import Adapter
from ..model_step import Capture
from .memory import create_memory, map_memory
from .messages import Begin, ClearAdapter, FromRank, Launch, PutAdapter, ShardConfig, ShardLoaded, ShardRefused, ToRank

MODULE = "headwater.engine.shards.rank"
_CRASHED = 70  # exit code, EX_SOFTWARE
_STOP_S = 3.0

logger = logging.getLogger(__name__)


class _Rank:
    """One other rank's process."""

    def __init__(self, config: EngineConfig, rank: int, memory_fd: int) -> None:
        self.rank = rank
        self._replies, reply_end = os.pipe()
        self._reader: FrameReader[FromRank] = FrameReader(FromRank)
        settings = ShardConfig(config, rank, memory_fd, reply_end)
        # In the engine's session: who kills that, kills its ranks.
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", MODULE], stdin=subprocess.PIPE, pass_fds=(memory_fd, reply_end)
        )
        os.close(reply_end)
        assert self.process.stdin is not None
        self._commands = self.process.stdin.fileno()
        self._write(encode_config(settings))

    def send(self, message: ToRank) -> None:
        self._write(encode_frame(message))

    def reply(self) -> FromRank:
        """The next one. Raises ModelError if it refuses, or has ended."""
        while True:
            data = os.read(self._replies, 1 << 16)
            if not data:
                raise ModelError(f"shard {self.rank} ended while it was started (exit code {self.process.wait()})")
            for message in self._reader.feed(data):
                if isinstance(message, ShardRefused):
                    raise ModelError(f"shard {self.rank}: {message.error}")
                return message

    def _write(self, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(self._commands, data) :]
        except BrokenPipeError:
            pass  # it has ended, which is noticed elsewhere


class _SharedProgram:
    """A program that all ranks launch."""

    def __init__(self, program: Program, index: int, send: Callable[[ToRank], None]) -> None:
        self._program, self._index, self._send = program, index, send

    def launch(self, rows: int, sequences: int = 0) -> None:
        """See Program."""
        self._send(Launch(self._index, rows, sequences))
        self._program.launch(rows, sequences)


class Ranks:
    """The other ranks of an engine.

    Attributes:
        memory: uint8 [any], zeros at first, shared by all ranks.
    """

    def __init__(self, config: EngineConfig) -> None:
        """Start them; they load their weights while rank 0 loads its own."""
        descriptor = create_memory()
        self.memory = map_memory(descriptor)
        self._ranks = [_Rank(config, rank, descriptor) for rank in range(1, config.num_shard)]
        os.close(descriptor)
        self._programs = 0
        self._is_watched = False
        self._closing = threading.Event()
        processes = [rank.process for rank in self._ranks]
        self.close = weakref.finalize(self, _close, processes, self._closing)

    def wait_loaded(self) -> None:
        """Until all have their weights. Raises ModelError."""
        for rank in self._ranks:
            loaded = rank.reply()
            assert isinstance(loaded, ShardLoaded)
            log_loaded(rank.rank, loaded)

    def begin(self, limits: Limits) -> None:
        """Let them record their programs, while rank 0 records its own with ``recording``."""
        self._programs = 0
        self.send(Begin(limits))

    def wait_ready(self) -> None:
        """Until they have; from then on this process ends when one of them does. Raises ModelError."""
        for rank in self._ranks:
            rank.reply()
            if self._is_watched:
                continue
            watch = (rank.rank, rank.process, self._closing)
            threading.Thread(target=_watch, args=watch, name=f"shard {rank.rank}", daemon=True).start()
        self._is_watched = True

    def recording(self, capture: Capture) -> Capture:
        """``capture`` for programs that all ranks have."""

        def shared(function: Callable[[int], object], sizes: Sequence[int]) -> Program:
            program = _SharedProgram(capture(function, sizes), self._programs, self.send)
            self._programs += 1
            return program

        return shared

    def put_adapter(self, adapter: Adapter, slot: int) -> None:
        """All ranks read it before their next launch."""
        self.send(PutAdapter(adapter, slot))

    def clear_adapter(self, slot: int) -> None:
        """All ranks empty that slot."""
        self.send(ClearAdapter(slot))

    def send(self, message: ToRank) -> None:
        """To all of them."""
        for rank in self._ranks:
            rank.send(message)


def log_loaded(rank: int, loaded: ShardLoaded) -> None:
    """A line of the start-up log."""
    logger.info(
        "shard %d: weights %.0f MiB, process %.0f MiB, loaded in %.1f s",
        rank, loaded.linear_bytes / 2**20, loaded.resident_bytes / 2**20, loaded.seconds,
    )  # fmt: skip


def _watch(rank: int, process: "subprocess.Popen[bytes]", closing: threading.Event) -> None:
    """End this process as that one ended: a step waits for it that never ends."""
    code = process.wait()
    if closing.is_set():
        return
    logger.critical("shard %d ended (%s), and the engine with it", rank, code)
    if code == -signal.SIGKILL:  # by somebody, or for its memory: so it is with the engine
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(_CRASHED)


def _close(processes: "list[subprocess.Popen[bytes]]", closing: threading.Event) -> None:
    closing.set()
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
    for process in processes:
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
