"""The instruction set of the CPU kernels: what the engine says of it, and what it refuses."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from headwater.engine.config import EngineConfig, encode_config
from headwater.kernels.instruction_sets import TABLE, runnable_sets

from .tiny import save_tiny_llama

BEST, *OTHERS = (row.name for row in runnable_sets())
FOREIGN = next(row.name for row in TABLE if row.name not in (BEST, *OTHERS))

START = """
import logging, sys
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
from headwater.engine.config import EngineConfig, decode_config
from headwater.engine.checkpoint.errors import ModelError
from headwater.engine.start import start_engine
try:
    start_engine(decode_config(sys.stdin.buffer.readline(), EngineConfig))
except ModelError as error:
    print("refused:", error)
"""


@pytest.mark.parametrize("asked", [None, BEST, OTHERS[-1] if OTHERS else BEST, FOREIGN, "avx3"])
def test_the_engine_says_which_set_it_uses_and_why(asked: str | None, tmp_path: Path) -> None:
    save_tiny_llama(tmp_path)
    config = EngineConfig(
        model_dir=tmp_path, model_id="tiny", socket=tmp_path / "unused", device="cpu", dtype="float32",
        kv_cache_bytes=1 << 20, cpu_features=asked,
    )  # fmt: skip
    environment = os.environ | {"HEADWATER_CPU_FEATURES": ""}
    command = [sys.executable, "-P", "-c", START]
    ended = subprocess.run(
        command, input=encode_config(config), env=environment, stdout=subprocess.PIPE, check=True, timeout=500
    )
    lines = ended.stdout.decode().splitlines()
    told = next(line for line in lines if "cpu kernels" in line or line.startswith("refused"))
    if asked is None:
        assert told.startswith(f"cpu kernels: {BEST}, the best that this processor has (")
    elif asked == BEST:
        assert told == f"cpu kernels: {BEST}, asked for; it is the best that this processor has"
    elif asked in OTHERS:
        assert told == f"cpu kernels: {asked}, asked for; this processor has {BEST}"
    elif asked == FOREIGN:
        assert told.startswith(f"refused: --cpu-features: CPU features {FOREIGN}: this processor lacks ")
    else:
        assert told.startswith("refused: --cpu-features: CPU features avx3: unknown; this processor has ")
