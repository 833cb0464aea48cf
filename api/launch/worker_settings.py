"""What a worker process is told by its parent: JSON in an environment variable, so that fork and spawn both do.

Apart from app.py because the parent must not import that: it brings in prometheus_client, which looks for its
directory when it is imported.
"""

import os
from pathlib import Path

from msgspec import Struct

from ...engine.config import decode_config, encode_config
from ..config import ApiConfig

_VARIABLE = "HEADWATER_API_WORKER"


class WorkerSettings(Struct, frozen=True):
    """Settings of a worker process."""

    config: ApiConfig
    permits: Path  # file of permits.py
    parent_pid: int


def set_worker_settings(settings: WorkerSettings) -> None:
    """For the processes started from now on."""
    os.environ[_VARIABLE] = encode_config(settings).decode()


def worker_settings() -> WorkerSettings:
    """Those of this process."""
    return decode_config(os.environ[_VARIABLE].encode(), WorkerSettings)
