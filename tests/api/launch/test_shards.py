from typing import Literal

import pytest

from headwater.api.launch.addresses import StartError
from headwater.api.launch.shards import count_shards

Said = Literal["true", "false"] | None


@pytest.mark.parametrize(
    ("sharded", "num_shard", "environment", "count"),
    [
        (None, None, {"CUDA_VISIBLE_DEVICES": "0,1"}, 1),
        (None, 4, {}, 4),
        ("true", 2, {}, 2),
        ("true", None, {"CUDA_VISIBLE_DEVICES": "0,2", "NVIDIA_VISIBLE_DEVICES": "all"}, 2),
        ("true", None, {"NVIDIA_VISIBLE_DEVICES": "0,1,2,3"}, 4),
        ("false", None, {"CUDA_VISIBLE_DEVICES": "0,1"}, 1),
        ("false", 1, {}, 1),
    ],
)
def test_as_tgi_reads_the_two_flags(
    sharded: Said, num_shard: int | None, environment: dict[str, str], count: int
) -> None:
    assert count_shards(sharded, num_shard, environment) == count


@pytest.mark.parametrize(
    ("sharded", "num_shard", "environment", "message"),
    [
        ("true", 1, {}, "--num-shard 1"),
        ("false", 2, {}, "--num-shard 2"),
        ("true", None, {}, "say how many"),
        ("true", None, {"NVIDIA_VISIBLE_DEVICES": "all"}, "say how many"),
        ("true", None, {"CUDA_VISIBLE_DEVICES": "3"}, "one device"),
    ],
)
def test_what_contradicts_itself_is_refused(
    sharded: Said, num_shard: int | None, environment: dict[str, str], message: str
) -> None:
    with pytest.raises(StartError, match=message):
        count_shards(sharded, num_shard, environment)
