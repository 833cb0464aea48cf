"""The GPU command where there is no GPU: what it says, what it writes, and that its checks are right."""

import importlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from headwater.bench.device.gpu import check_rows
from headwater.bench.device.gpu.__main__ import Report
from headwater.bench.device.gpu.parts import PARTS, Outcome, Part, run_part, run_parts
from headwater.bench.device.gpu.server import figures_of_server
from headwater.bench.device.gpu.setup import Figure, Setup

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


def run_command(tmp_path: Path, *arguments: str, interpret: bool, status: int = 0) -> tuple[str, dict]:
    """Output and JSON of the command, which must end with ``status``, with only torch, triton and numpy to import."""
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
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout, json.loads(file.read_text())


def test_without_a_gpu_it_says_so_and_ends_with_an_error(tmp_path):
    output, report = run_command(tmp_path, interpret=False, status=2)
    assert "No GPU" in output
    assert "nothing was found out" in output
    assert report["version"] == 1
    assert report["environment"]["torch"] == torch.__version__
    assert report["environment"]["device"] is None
    assert report["roofs"] == {}
    assert {part["name"] for part in report["parts"]} == {part.name for part in PARTS}
    assert {part["status"] for part in report["parts"]} == {"skipped"}
    assert all("no GPU" in part["reason"] for part in report["parts"])


def test_checks_in_the_interpreter_are_reported(tmp_path):
    output, report = run_command(tmp_path, "--only", "roofs", "check norms", "check attention", interpret=True)
    assert "comparisons hold." in output
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
IN_FP16_ALWAYS = {"check exact engine"}


def holds(part: Part, setup: Setup) -> None:
    outcome = run_part(part, setup)
    assert outcome.status == "ok", outcome.reason or [each for each in outcome.comparisons if not each.holds]
    assert outcome.comparisons


@pytest.mark.parametrize("part", CHECKS, ids=[part.name for part in CHECKS])
def test_a_check_holds(part):
    holds(part, TINY)


@pytest.mark.parametrize(
    "part", [part for part in CHECKS if part.name not in OF_THE_SAMPLER | IN_FP16_ALWAYS], ids=lambda part: part.name
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


# Parts as a module that the processes of parts find by its name.
PARTS_THAT_END_BADLY = """
import os
import time

from headwater.bench.device.gpu.setup import Figure


def dies(setup):
    yield Figure("before it dies", 1.0)
    os._exit(5)


def hangs(setup):
    yield Figure("before it hangs", 1.0)
    time.sleep(600)
"""


@pytest.fixture
def bad_parts(tmp_path, monkeypatch) -> ModuleType:
    (tmp_path / "parts_that_end_badly.py").write_text(PARTS_THAT_END_BADLY)
    monkeypatch.syspath_prepend(str(tmp_path))  # spawned processes get the path, too
    return importlib.import_module("parts_that_end_badly")


def test_the_rest_runs_when_a_part_fails_hangs_or_dies_and_what_it_had_measured_is_kept(bad_parts):
    norms = next(part for part in PARTS if part.name == "check norms")
    parts = [
        Part("fails", int),  # int(setup) raises
        Part("hangs", bad_parts.hangs, limit_s=3.0),  # in the process that ran the one before
        Part("dies", bad_parts.dies),
        norms,
    ]
    found = list(run_parts(parts, TINY, time.monotonic() + 200))
    outcomes = [each for each in found if isinstance(each, Outcome)]
    assert [(each.name, each.status) for each in outcomes] == [
        ("fails", "error"), ("hangs", "error"), ("dies", "error"), ("check norms", "ok"),
    ]  # fmt: skip
    assert "TypeError" in outcomes[0].reason
    assert outcomes[1].reason == "not done after 3 s"
    assert "status 5" in outcomes[2].reason
    figures = [each.name for each in found if isinstance(each, Figure)]
    assert figures == ["before it hangs", "before it dies"]
    assert [figure.name for outcome in outcomes for figure in outcome.figures] == figures


def test_nothing_begins_after_the_deadline():
    (outcome,) = run_parts([Part("fails", int)], TINY, time.monotonic())
    assert (outcome.status, outcome.reason) == ("late", "out of time")


def test_figures_are_a_table_and_the_status_tells_what_is_missing(tmp_path):
    figure = Figure("copy", 2e-3, traffic_bytes=6 << 30, note="once")
    report = Report(tmp_path / "gpu.json", {})
    assert report.status == 2  # nothing yet
    report.add_result(figure)
    assert json.loads((tmp_path / "gpu.json").read_text())["running"][0]["name"] == "copy"
    report.add(Outcome("roofs", "ok", 1.0, (), (figure,)))
    assert report.status == 0
    report.add(Outcome("rows", "late", reason="out of time"))
    assert report.status == 3
    report.add(Outcome("linears", "error", reason="Traceback\nValueError: no"))
    assert report.status == 1
    lines = report.markdown("a card").splitlines()
    assert "| copy | 2.00 ms | 3221.2 GB/s 100% of copy | once |" in lines
    assert "- rows: late, out of time" in lines
    assert "- linears: error, ValueError: no" in lines


def test_a_whole_server_is_measured():
    figures = [each for each in figures_of_server(TINY) if isinstance(each, Figure)]
    assert len(figures) == 3
    assert "tokens/s" in figures[-1].note


# Parts that are more than launches: servers, and what the device's own profiler tells.
OTHERS = {"server", "8-bit server", "step by kernel"}

# Every part that takes times, on a device that computes nothing: shapes and launches are those of a GPU.
RECORDED = f"""
import json
from unittest import mock

import torch

from headwater.bench.device.gpu import baselines, decode, figures, figures_attention, runner
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
    mock.patch.multiple(runner, LAYERS=2, _CASES=runner._CASES[-2:], _STEPS=3, _QUICK_STEPS=3),
    mock.patch.object(decode, "LAYERS", 2),
    mock.patch.object(baselines, "seconds_per_call", once),
    mock.patch.object(decode, "events_s", events_s),
    mock.patch.object(decode, "capture"),
    mock.patch.object(torch.cuda, "mem_get_info", return_value=(free, free)),
    mock.patch.object(torch.cuda, "synchronize"),
):
    for part in PARTS:
        if part.needs_gpu and part.name not in {OTHERS}:
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
    assert [name for name, *_ in outcomes] == [
        part.name for part in PARTS if part.needs_gpu and part.name not in OTHERS
    ]
    for _, status, reason, figures in outcomes:
        assert status == "ok", reason
        assert figures >= 1
