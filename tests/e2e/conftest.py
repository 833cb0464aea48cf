"""Servers of the default model, started once as a user starts them and shared by all tests that don't end them."""

from collections.abc import Iterator

import pytest

from .serving import Serving, serving

# Room for every test at a time, and a warm-up of seconds.
ROOM = ("--max-batch-prefill-tokens", "64", "--max-total-tokens", "1024", "--kv-cache-bytes", str(512 << 20))


@pytest.fixture(scope="session")
def shared_server() -> Iterator[Serving]:
    """The default model in its own dtype, bf16."""
    with serving(*ROOM, "--max-batch-size", "8") as server:
        server.wait_ready()
        yield server


@pytest.fixture(scope="session")
def shared_fp32_server() -> Iterator[Serving]:
    """The default model in fp32, where what a sequence gets cannot hide behind rounding."""
    with serving(*ROOM, "--max-batch-size", "32", "--dtype", "float32") as server:
        server.wait_ready()
        yield server
