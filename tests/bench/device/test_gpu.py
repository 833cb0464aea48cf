"""The GPU command where there is no GPU: what it says, what it writes, and that its checks are right."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from headwater.bench.device.gpu import check_rows
from headwater.bench.device.gpu.parts import PARTS, Part, run_part, run_parts
from headwater.bench.device.gpu.setup import Setup

TINY = Setup(torch.device("cpu"), torch.float32, tiny=True, quick=True)
CHECKS = [part for part in PARTS if not part.needs_gpu]

# Put in front of everything that Python imports at its start, in the command and in the process that it spawns.
HIDE = """
import sys

class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {hidden!r}:
            raise ModuleNotFoundError(f"No module named '{{name}}'", name=name)

sys.meta_path.insert(0, Hide())
"""


def distributions_of(*names: str) -> set[str]:
    """Distributions and all that they require."""
    found: set[str] = set()
    left = list(names)
    while left:
        name = re.sub(r"[-_.]+", "-", left.pop()).lower()
        if name in found:
            continue
        try:
            requires = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # an extra, or of another platform
        found.add(name)
        left += [re.match(r"[\w.-]+", line)[0] for line in requires if "extra ==" not in line]
    return found


def hidden_modules() -> set[str]:
    """Top-level modules of every distribution that the command may not need."""
    allowed = distributions_of("torch", "triton", "numpy") | {"headwater"}
    modules = importlib.metadata.packages_distributions()
    return {
        module
        for module, owners in modules.items()
        if not any(re.sub(r"[-_.]+", "-", owner).lower() in allowed for owner in owners)
    }


def run_command(tmp_path: Path, *arguments: str, interpret: bool) -> tuple[str, dict]:
    """Output and JSON of the command, which must end well, with only torch, triton and numpy to import."""
    hidden = hidden_modules()
    assert {"msgspec", "numba", "safetensors", "pytest"} <= hidden
    (tmp_path / "sitecustomize.py").write_text(HIDE.format(hidden=hidden))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
    environment["TRITON_INTERPRET"] = "1" if interpret else "0"
    file = tmp_path / "gpu.json"
    done = subprocess.run(
        [sys.executable, "-m", "headwater.bench.device.gpu", "--json", str(file), *arguments],
        capture_output=True, text=True, env=environment, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, json.loads(file.read_text())


def test_without_a_gpu_it_says_so(tmp_path):
    output, report = run_command(tmp_path, interpret=False)
    assert "No GPU" in output
    assert report["version"] == 1
    assert report["environment"]["torch"] == torch.__version__
    assert report["environment"]["device"] is None
    assert report["roofs"] == {}
    assert {part["name"] for part in report["parts"]} == {part.name for part in PARTS}
    assert {part["status"] for part in report["parts"]} == {"skipped"}
    assert all("no GPU" in part["reason"] for part in report["parts"])


def test_checks_in_the_interpreter_are_reported(tmp_path):
    _, report = run_command(tmp_path, "--only", "roofs", "check norms", "check attention", interpret=True)
    parts = {part["name"]: part for part in report["parts"]}
    assert {name: part["status"] for name, part in parts.items()} == {
        "roofs": "skipped", "check norms": "ok", "check attention": "ok",
    }  # fmt: skip
    comparisons = parts["check attention"]["comparisons"]
    assert len(comparisons) == 2
    for comparison in comparisons:
        assert comparison["holds"]
        assert 0 < comparison["error"] <= comparison["tolerance"]


OF_THE_SAMPLER = {"check sampling", "check sampling alone", "check sampling cases", "check draws"}
ROW_CHECKS = [part for part in CHECKS if part.name not in OF_THE_SAMPLER]


def holds(part: Part, setup: Setup) -> None:
    outcome = run_part(part, setup)
    assert outcome.status == "ok", outcome.reason or [each for each in outcome.comparisons if not each.holds]
    assert outcome.comparisons


@pytest.mark.parametrize("part", CHECKS, ids=[part.name for part in CHECKS])
def test_a_check_holds(part):
    holds(part, TINY)


@pytest.mark.parametrize(
    "part", [part for part in CHECKS if part.name not in OF_THE_SAMPLER], ids=lambda part: part.name
)
def test_a_check_of_rows_holds_in_fp16(part):
    holds(part, replace(TINY, dtype=torch.float16))


@pytest.mark.parametrize("wrong", [lambda y: y * 1.001, lambda y: y * torch.nan])
def test_a_wrong_kernel_is_noticed(monkeypatch, wrong):
    right = check_rows.rms_norm
    monkeypatch.setattr(check_rows, "rms_norm", lambda *arguments: wrong(right(*arguments)))
    outcome = run_part(Part("check norms", check_rows.check_norms), TINY)
    assert outcome.status == "failed"
    assert {each.name.split()[0] for each in outcome.comparisons if not each.holds} == {"rms_norm"}


def test_the_rest_runs_when_a_part_fails_or_its_process_ends():
    fails = Part("fails", int)  # int(setup) raises
    dies = Part("dies", sys.exit)
    norms = next(part for part in PARTS if part.name == "check norms")
    outcomes = list(run_parts([fails, dies, norms], TINY, time.monotonic() + 200))
    assert [(each.name, each.status) for each in outcomes] == [
        ("fails", "error"), ("dies", "error"), ("check norms", "ok"),
    ]  # fmt: skip
    assert "TypeError" in outcomes[0].reason
    assert "status 1" in outcomes[1].reason


def test_nothing_begins_after_the_deadline():
    (outcome,) = run_parts([Part("fails", int)], TINY, time.monotonic())
    assert (outcome.status, outcome.reason) == ("skipped", "out of time")


# Every part that takes times, on a device that computes nothing: shapes and launches are those of a GPU.
RECORDED = """
import json
from unittest import mock

import torch

from headwater.bench.device.gpu import decode, figures, figures_attention
from headwater.bench.device.gpu.parts import PARTS, run_part
from headwater.bench.device.gpu.setup import Setup
from headwater.bench.device.dry_run.fake_device import DEVICE, recorded_device


def once(setup, calls):
    for call in calls:
        call()
    return 1.0


def events_s(run, count):
    run()
    return [1.0]


free = 80 << 30
with (
    recorded_device(90),
    mock.patch.object(figures, "seconds_per_call", once),
    mock.patch.object(figures, "copies_beyond_l2", return_value=2),
    mock.patch.object(figures_attention, "seconds_per_call", once),
    mock.patch.object(figures_attention, "copies_beyond_l2", return_value=2),
    mock.patch.object(decode, "events_s", events_s),
    mock.patch.object(decode, "capture"),
    mock.patch.object(torch.cuda, "mem_get_info", return_value=(free, free)),
    mock.patch.object(torch.cuda, "synchronize"),
):
    for part in PARTS:
        if part.needs_gpu:
            outcome = run_part(part, Setup(DEVICE, torch.bfloat16))
            print(json.dumps([outcome.name, outcome.status, outcome.reason, len(outcome.figures)]))
"""


def test_every_measured_launch_can_be_made():
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", RECORDED], capture_output=True, text=True, env=environment, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    assert [name for name, *_ in outcomes] == [part.name for part in PARTS if part.needs_gpu]
    for _, status, reason, figures in outcomes:
        assert status == "ok", reason
        assert figures >= 1
