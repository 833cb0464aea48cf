"""How an engine is: process, loop and device, each by itself."""

from msgspec import Struct


class ProcessHealth(Struct):
    """Of the engine's process."""

    connected: bool
    pid: int | None


class LoopHealth(Struct):
    """Of the loop that runs its steps."""

    silent_s: float  # since it last went round


class DeviceHealth(Struct):
    """Of what computes; None where it is not known."""

    steps: int | None = None  # begun since the engine's start
    step_s: float | None = None  # age of the oldest step under way; None too if there is none
    idle_s: float | None = None  # since the last step ended


class EngineHealth(Struct):
    """How the engine is."""

    process: ProcessHealth
    loop: LoopHealth
    device: DeviceHealth


class Liveness(Struct):
    """Body of GET /health/live."""

    ready: bool
    reason: str | None  # why not
    engine: EngineHealth
