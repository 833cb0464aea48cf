"""Each flag of the engine's sizes is what the engine goes by."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from headwater.engine.config import EngineConfig, encode_config
from headwater.engine.limits import Limits, choose_limits
from headwater.engine.models.families import read_config
from headwater.engine.models.kv_cache import page_bytes


@pytest.fixture
def directory(tiny_llama: tuple[Path, LlamaForCausalLM]) -> Path:
    return tiny_llama[0]


def limits_of(directory: Path, device: str = "cpu", **flags: Any) -> Limits:
    config = EngineConfig(model_dir=directory, model_id="tiny", socket=directory / "unused", **flags)
    return choose_limits(config, read_config(directory), torch.float32, torch.device(device))


def test_sizes_of_a_step(directory: Path) -> None:
    limits = limits_of(directory, max_batch_size=3, max_batch_prefill_tokens=17, speculate=2)
    assert (limits.max_sequences, limits.max_rows, limits.max_samples) == (3, 17, 9)
    assert limits_of(directory, max_batch_size=30, max_batch_prefill_tokens=17).max_rows == 30  # each needs a row


def test_the_longest_sequence(directory: Path) -> None:
    assert limits_of(directory, max_total_tokens=40).max_total_tokens == 40
    assert limits_of(directory, max_total_tokens=4000).max_total_tokens == 256  # the model's


def test_the_size_of_the_cache(directory: Path) -> None:
    per_page = page_bytes(read_config(directory), 16, torch.float32)
    limits = limits_of(directory, kv_cache_bytes=5 * per_page + 1)
    assert (limits.num_pages, limits.max_total_tokens) == (5, 64)


def test_the_draft_models_pages_come_out_of_the_same_memory(directory: Path) -> None:
    per_page = page_bytes(read_config(directory), 16, torch.float32)
    config = EngineConfig(model_dir=directory, model_id="tiny", socket=directory, kv_cache_bytes=12 * per_page)
    limits = choose_limits(config, read_config(directory), torch.float32, torch.device("cpu"), per_page // 2)
    assert limits.num_pages == 8


def test_threads_are_said_to_change_nothing_on_a_gpu(directory: Path) -> None:
    note = "--threads changes nothing: it is for the cpu backend"
    assert note in limits_of(directory, "cuda", threads=2, kv_cache_bytes=1 << 20).reasons
    assert note not in limits_of(directory, "cuda", kv_cache_bytes=1 << 20).reasons
    assert note not in limits_of(directory, threads=2).reasons


START = """
import sys
from headwater.engine.config import EngineConfig, decode_config
from headwater.engine.start import start_engine
from headwater.kernels.cpu.thread_pool import thread_pool
_, hello = start_engine(decode_config(sys.stdin.buffer.readline(), EngineConfig))
print(hello.device, hello.backend, hello.dtype, hello.prefix_cache, thread_pool().threads)
"""


def test_an_engine_is_what_its_flags_say(directory: Path) -> None:
    config = EngineConfig(
        model_dir=directory, model_id="tiny", socket=directory / "unused", device="cpu", backend="cpu",
        dtype="float32", threads=3, prefix_cache=False, kv_cache_bytes=1 << 20,
    )  # fmt: skip
    # In a process of its own: the pool of threads is made once.
    command = [sys.executable, "-P", "-c", START]
    ended = subprocess.run(command, input=encode_config(config), stdout=subprocess.PIPE, check=True, timeout=300)
    assert ended.stdout.splitlines()[-1] == b"cpu cpu float32 False 3"
