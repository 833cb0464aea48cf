"""Every bench command on the default model: a real server, and for `offline` the engine itself."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .serving import PATIENCE_S, Serving

HEADWATER = str(Path(sys.executable).with_name("headwater"))
SMALL = ("--no-client-check", "--input-tokens", "48", "--output-tokens", "4", "--warmup", "1")


def report_of(file: Path, *arguments: str) -> dict[str, Any]:
    """The JSON of a command, which must end well."""
    done = subprocess.run(
        [HEADWATER, "bench", *arguments, "--json", str(file)],
        capture_output=True, text=True, timeout=2 * PATIENCE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(file.read_text())


def check_run(run: dict[str, Any], requests: int) -> None:
    assert (run["completed"], run["failed"]) == (requests, 0)
    assert run["total_input_tokens"] == 48 * requests  # words calibrated with the server's own counts
    assert run["total_output_tokens"] == 4 * requests  # exactly: end of sequence is ignored
    assert (run["other_length"], run["uncounted"]) == (0, 0)
    assert 0 < run["median_ttft_ms"] <= run["median_e2el_ms"]
    assert run["output_throughput"] > 0


@pytest.mark.parametrize(
    "load", [("-c", "1,3"), ("-r", "20"), ("-c", "2", "-p", "openai"), ("-c", "2", "-p", "openai-chat")], ids=" ".join
)
def test_serve(shared_server: Serving, tmp_path: Path, load: tuple[str, ...]) -> None:
    report = report_of(tmp_path / "report.json", "serve", shared_server.url, "-n", "3", *SMALL, *load)
    assert report["servers"][0]["about"]["model_id"] == report["runs"][0]["model_id"]
    for run in report["runs"]:
        check_run(run, 3)


def test_sweep(shared_server: Serving, tmp_path: Path) -> None:
    report = report_of(tmp_path / "report.json", "sweep", shared_server.url, "--most", "2", "-n", "2", *SMALL)
    assert report["saturation"] in (1, 2)
    for run in report["runs"]:
        check_run(run, 2)


def test_compare(shared_server: Serving, tmp_path: Path) -> None:
    url = shared_server.url
    report = report_of(tmp_path / "report.json", "compare", url, url, "--rounds", "2", "-c", "2", "-n", "2", *SMALL)
    assert report["rounds"] == 2
    assert len(report["runs"]) == 4
    for run in report["runs"]:
        check_run(run, 2)


@pytest.mark.parametrize(("flags", "weight_bytes"), [((), 96.4e6), (("--quantize", "int8"), 134.5e6)])
def test_offline(tmp_path: Path, flags: tuple[str, ...], weight_bytes: float) -> None:
    report = report_of(
        tmp_path / "report.json", "offline", "--batches", "1,3", "--contexts", "20", "--steps", "2",
        "--html", str(tmp_path / "page.html"), *flags,
    )  # fmt: skip
    assert [(cell["context"], cell["batch"]) for cell in report["cells"]] == [(20, 1), (20, 3)]
    one, three = report["cells"]
    # Every weight of the default model once: 134.5 million, 5.7 bits each in its file.
    assert report["weight_bytes"] == pytest.approx(weight_bytes, rel=0.01)
    assert one["read_bytes"] - report["weight_bytes"] == one["mean_context"] * report["kv_bytes_per_token"]
    assert three["read_bytes"] > one["read_bytes"]
    for cell in report["cells"]:
        assert cell["mean_context"] >= 20
        assert cell["tokens_per_s"] == pytest.approx(cell["batch"] / cell["step_ms"] * 1e3)
        assert cell["roof_share"] == pytest.approx(cell["bandwidth"] / report["roof_bytes_per_s"])
    assert "<svg" in (tmp_path / "page.html").read_text()


def test_profile() -> None:
    done = subprocess.run(
        [HEADWATER, "bench", "profile", "--batches", "2", "--context", "20", "--steps", "3"],
        capture_output=True, text=True, timeout=2 * PATIENCE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    rows = dict(line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("| "))
    ms = {name: float(value) for name, value in rows.items() if value != "ms"}
    assert {"step", "host, beside the kernels", "attend", "norm", "sample"} <= set(ms)
    assert all(value >= 0 for value in ms.values())
    assert max(ms, key=lambda name: ms[name] if name != "step" else -1).startswith("block linear")
