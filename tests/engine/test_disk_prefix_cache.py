"""The prefix cache on disk: what an engine computed is found by the next one, and answers stay the same to the bit."""

import shutil
from pathlib import Path
from typing import Literal

import msgspec
import pytest
import torch
from transformers import LlamaForCausalLM

from headwater.engine import page_store
from headwater.engine.checkpoint.errors import ModelError
from headwater.engine.config import EngineConfig
from headwater.engine.engine import Engine
from headwater.engine.messages import DiskStats, SamplingParams, Scheduling, Submit, Tokens
from headwater.engine.models.dtypes import Dtypes, choose_dtypes
from headwater.engine.models.families import read_config
from headwater.engine.models.kv_cache import KVCache
from headwater.engine.page_files import PageFiles
from headwater.engine.page_kind import page_kind
from headwater.engine.page_store import PageStore
from headwater.kernels import load_backend

from .tiny import tiny_engine

Tiny = tuple[Path, LlamaForCausalLM]
PROMPTS = [[owner] * 40 + list(range(60)) for owner in (1, 2, 3)]
SAMPLING = SamplingParams(9, greedy=False, seed=7, top_n=2, raw_logprobs=True)
PAGES = 7  # of 16 tokens: room for one of the sequences


def run(engine: Engine, prompt_ids: list[int], **scheduling: str) -> tuple[list[Tokens], int]:
    """What is told of one sequence, and how many of its prompt tokens were found."""
    assert engine.submit(0, Submit(0, prompt_ids, SAMPLING, scheduling=Scheduling(**scheduling))) is None  # type: ignore[arg-type]
    told, cached = [], 0
    while engine.has_work:
        for step in engine.step().values():
            told += step.tokens
            cached += sum(started.cached_tokens for started in step.started)
    engine.check()
    return told, cached


def engine_of(tiny: Tiny, directory: Path | None) -> Engine:
    return tiny_engine(tiny[0], num_pages=PAGES + 1, prefix_cache_dir=directory)


def test_pages_that_left_memory_come_back_after_a_restart_too(tiny_llama: Tiny, tmp_path: Path) -> None:
    without = engine_of(tiny_llama, None)
    answers = [run(without, prompt)[0] for prompt in PROMPTS]
    first = engine_of(tiny_llama, tmp_path)
    for _ in range(2):
        found = [run(first, prompt) for prompt in PROMPTS]
        assert [told for told, _ in found] == answers
    first.close()
    stats = first.stats().disk
    assert (stats.failed, stats.dropped) == (0, 0)
    assert stats.saved > PAGES
    second = engine_of(tiny_llama, tmp_path)
    assert [run(second, prompt) for prompt in PROMPTS] == [(told, 96) for told in answers]
    assert run(second, PROMPTS[0], cache_salt="other") == (answers[0], 0)
    second.close()


def test_damaged_pages_are_computed_again(tiny_llama: Tiny, tmp_path: Path) -> None:
    first = engine_of(tiny_llama, tmp_path)
    answer, _ = run(first, PROMPTS[0])
    first.close()
    files = set(tmp_path.rglob("*.page"))
    for file in files:
        file.write_bytes(file.read_bytes()[:-1] + b"?")
    second = engine_of(tiny_llama, tmp_path)
    assert run(second, PROMPTS[0]) == (answer, 0)
    assert second.stats().disk.loaded == 0
    second.close()
    assert files <= set(tmp_path.rglob("*.page")), "written anew"
    third = engine_of(tiny_llama, tmp_path)
    assert run(third, PROMPTS[0]) == (answer, 96)
    third.close()


def test_a_directory_that_cannot_be_had_is_told(tiny_llama: Tiny, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match=r"--prefix-cache-dir .*file"):
        engine_of(tiny_llama, tmp_path / "file")


@pytest.mark.parametrize("name", ["cpu", "triton"])
def test_a_page_of_either_backend_comes_back_whole_and_alone(
    tiny_llama: Tiny, tmp_path: Path, name: Literal["cpu", "triton"]
) -> None:
    config, backend = read_config(tiny_llama[0]), load_backend(name)
    cache = KVCache(config, 5, 16, torch.float16, torch.device("cpu"))
    store = PageStore(PageFiles(tmp_path, b"k" * 16, 1 << 20), cache, backend)
    for layer in (*cache.k_pages, *cache.v_pages):
        layer.copy_(torch.randn(layer.shape))
    before = [layer.clone() for layer in (*cache.k_pages, *cache.v_pages)]
    store.close([(2, b"two")], 60.0)
    assert store.has(b"two")
    assert store.load(b"two", 4)
    assert not store.load(b"three", 1)
    backend.Event().wait()
    for old, new in zip(before, (*cache.k_pages, *cache.v_pages), strict=True):
        assert torch.equal(new[:4], old[:4])
        assert torch.equal(new[4], old[2])
    assert store.stats == DiskStats(saved=1, loaded=1)


def test_copies_run_in_order_and_nobody_has_to_keep_what_they_need() -> None:
    cpu = load_backend("cpu")
    first = last = torch.randint(256, (8, 4096), dtype=torch.uint8)
    for _ in range(1000):
        last, source = torch.empty(8, 8192, dtype=torch.uint8)[:, 2048:6144], last
        cpu.copy_boxes(last, source)
    cpu.Event().wait()
    assert torch.equal(last, first)


def test_a_writer_that_is_behind_drops_pages(tiny_llama: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_store, "_STAGED_BYTES", 0)  # as many as there are at least
    cache = KVCache(read_config(tiny_llama[0]), 5, 16, torch.float16, torch.device("cpu"))
    store = PageStore(PageFiles(tmp_path, b"k" * 16, 1 << 30), cache, load_backend("cpu"))
    for index in range(10):  # none is on its way before a step was read
        store.save(1, index.to_bytes(16))
    store.close([], 60.0)
    assert store.stats == DiskStats(saved=4, dropped=6)


def test_pages_are_found_by_the_same_model_on_the_same_machine_alone(tiny_llama: Tiny, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_llama[0], model)
    (weights,) = model.glob("*.safetensors")
    config = EngineConfig(model_dir=model, model_id="tiny", socket=tmp_path / "unused")
    cpu = load_backend("cpu")
    dtypes = choose_dtypes(cpu, "float32")

    def kind(config: EngineConfig = config, dtypes: Dtypes = dtypes, name: str = "cpu", positions: int = 256) -> bytes:
        return page_kind(config, dtypes, load_backend(name), positions, tmp_path / "kept")  # type: ignore[arg-type]

    first = kind()
    assert kind() == first
    kinds = [
        first,
        kind(dtypes=choose_dtypes(cpu, "float32", kv_cache="fp8_e4m3fn")),
        kind(dtypes=choose_dtypes(cpu, "bfloat16")),
        kind(dtypes=choose_dtypes(cpu, "bfloat16", "float32")),
        kind(config=msgspec.structs.replace(config, quantize="int8")),
        kind(config=msgspec.structs.replace(config, page_size=32)),
        kind(positions=128),
        kind(name="triton"),
    ]
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # one bit of one weight
    assert len({*kinds, kind()}) == len(kinds) + 1
    weights.write_bytes(content)
    assert kind() == first
