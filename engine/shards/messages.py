"""What rank 0 and the other ranks tell each other, in frames (engine/frames.py) on a pipe each way."""

from msgspec import Struct

from ..config import EngineConfig
from ..limits import Limits
from ..messages import Adapter


class ShardConfig(Struct, frozen=True):
    """The first line of a rank's standard input; what follows are frames of ToRank."""

    engine: EngineConfig
    rank: int
    memory_fd: int  # what ranks exchange, see SharedMemory
    reply_fd: int  # where it writes frames of FromRank


class Begin(Struct, frozen=True, tag=True):
    """Record the programs of an engine of that size."""

    limits: Limits


class Launch(Struct, frozen=True, tag=True):
    """Launch a program, by its number in the order of recording."""

    program: int
    rows: int
    sequences: int


class PutAdapter(Struct, frozen=True, tag=True):
    """Read an adapter and let that slot have it."""

    adapter: Adapter
    slot: int


class ClearAdapter(Struct, frozen=True, tag=True):
    """Empty a slot."""

    slot: int


class ShardLoaded(Struct, frozen=True, tag=True):
    """The weights are there."""

    linear_bytes: int
    resident_bytes: int  # of the process, what it shares with others included
    seconds: float


class ShardReady(Struct, frozen=True, tag=True):
    """The programs are recorded."""


class ShardRefused(Struct, frozen=True, tag=True):
    """It can't be; the rank ends."""

    error: str


ToRank = Begin | Launch | PutAdapter | ClearAdapter
FromRank = ShardLoaded | ShardReady | ShardRefused
