"""``--sharded`` and ``--num-shard`` together, as TGI's launcher reads them."""

from collections.abc import Mapping
from typing import Literal

from .addresses import StartError

_VISIBLE = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")


def count_shards(
    sharded: Literal["true", "false"] | None, num_shard: int | None, environment: Mapping[str, str]
) -> int:
    """How many; ``sharded`` alone asks for one for each device that can be seen. Raises StartError.

    TGI does the latter without any flag, too. Here more than one is asked for: the number changes the order of sums.
    """
    if num_shard is not None:
        if sharded == "true" and num_shard == 1:
            raise StartError("--sharded true, but --num-shard 1: leave one of them out")
        if sharded == "false" and num_shard > 1:
            raise StartError(f"--sharded false, but --num-shard {num_shard}: leave one of them out")
        return num_shard
    if sharded != "true":
        return 1
    listed = next((environment[name] for name in _VISIBLE if environment.get(name)), None)
    if listed is None or listed == "all":
        raise StartError(f"--sharded true: say how many with --num-shard, or which devices with {_VISIBLE[0]}")
    count = len([device for device in listed.split(",") if device.strip()])
    if count == 1:
        raise StartError(f"--sharded true, but {listed} is one device")
    return count
