"""The runner on a recorded device: launches per layer, bytes, signatures that stay the same, and that all compile.

In processes of their own: nothing may be interpreted, and Triton cannot launch where launches were recorded.
"""

import json
import os
import subprocess
import sys

import pytest

# A layer of Llama: 8 in steps of up to 256 rows.
LAYER = {
    "qkv_kernel": 1,
    "_attention_kernel": 2,
    "_merge_kernel": 1,
    "linear_kernel": 3,
    "_rms_norm_kernel": 2,
}
SMALL_LAYER = LAYER | {"_attention_kernel": 1}  # of a step of up to 256 rows
LARGE_STEPS = ("chunk of 512 and decode 8", "chunks of 1900, 31, 7 and decode 33")
OUTSIDE = 10  # launches of a step: the sampled tokens, plan, embedding, last norm; rows, head, sampler 3, counts
LAYERS = 2


def run(script: str) -> dict:
    """The JSON that a script prints."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


LLAMA = f"""
import json
from collections import Counter
from headwater.bench.device.dry_run.__main__ import compile_all, new_signatures, record_steps, unprepared
from headwater.bench.device.dry_run.work import LAUNCHES
from headwater.bench.device.estimate import estimates_of

records = record_steps("llama-3.1-8b", 90, {LAYERS})
launches = {{key: launch for record in records for key, launch in record.signatures.items()}}
print(json.dumps({{
    "layers": {{record.step.name: Counter(record.layer) for record in records}},
    "launches": {{record.step.name: record.count(*LAUNCHES) for record in records}},
    "traffic": {{record.step.name: record.traffic._asdict() for record in records}},
    "host": {{
        record.step.name: Counter(each.kind for each in record.work if each.kind not in LAUNCHES) for record in records
    }},
    "estimates": {{
        record.step.name: [each[:5] for each in estimates_of(record, 90)]
        for record in records if record.step.name in ("decode 64", "chunk of 512 and decode 8")
    }},
    "new": new_signatures(records) + unprepared("llama-3.1-8b", 90, 1),
    "kernels": sorted(launch.name for launch in launches.values()),
    "failures": compile_all(launches, 90),
}}))
"""


@pytest.fixture(scope="module")
def llama() -> dict:
    return run(LLAMA)


def test_launches_of_a_layer_and_of_a_step(llama):
    for step, layer in llama["layers"].items():
        want = LAYER if step in LARGE_STEPS else SMALL_LAYER
        assert layer == want, step
        if "rare" not in step:
            assert llama["launches"][step] == LAYERS * sum(want.values()) + OUTSIDE, step


def test_no_launch_is_specialised_anew_when_batch_or_lengths_change_or_on_any_request(llama):
    assert llama["new"] == []


def test_every_launch_compiles(llama):
    assert llama["failures"] == []
    assert set(LAYER) <= set(llama["kernels"])
    assert {"_plan_kernel", "tiles_kernel", "rows_kernel"} <= set(llama["kernels"])


def test_bytes_of_a_decode_step(llama):
    traffic = llama["traffic"]["decode 64"]
    hidden, intermediate, vocab, kv = 4096, 14336, 128256, 8 * 128
    layer = hidden * (hidden + 2 * kv) + hidden * hidden + 3 * hidden * intermediate
    assert traffic["weights"] == 2 * (LAYERS * layer + vocab * hidden)
    # 64 sequences of 4096 tokens are read, one position of each is written.
    assert traffic["kv"] == 2 * 2 * kv * LAYERS * 64 * (4096 + 1)
    assert 0 < traffic["rest"] < 0.1 * (traffic["weights"] + traffic["kv"] + traffic["rows"])


def test_the_host_waits_for_nothing_until_a_step_is_launched(llama):
    # Rows with what has changed of page tables, and sampling parameters go there; what was sampled comes back.
    assert all(host == {"upload": 2, "download": 1} for host in llama["host"].values())


def test_a_step_on_paper_is_the_sum_of_its_launches(llama):
    hidden, intermediate, vocab, kv = 4096, 14336, 128256, 8 * 128
    layer = LAYERS * hidden * (2 * hidden + 2 * kv + 3 * intermediate)
    # The head of 9 rows is the graph of 64.
    for step, rows, samples in (("decode 64", 64, 64), ("chunk of 512 and decode 8", 520, 64)):
        found = llama["estimates"][step]
        assert len(found) == llama["launches"][step]
        traffic = llama["traffic"][step]
        assert sum(nbytes for _, nbytes, *_ in found) == sum(traffic.values())
        linears = sum(flops for name, _, flops, *_ in found if name.startswith("linear"))
        assert linears == 2 * (rows * layer + samples * vocab * hidden)
        assert all(least < expected for *_, least, expected in found)
    products = 4 * 64 * 4096 * hidden * LAYERS  # of Q and K, and with V
    assert sum(flops for name, _, flops, *_ in llama["estimates"]["decode 64"] if "few rows" in name) == products


BLOCKS = """
import json
from collections import Counter
from headwater.bench.device.dry_run.__main__ import new_signatures, record_steps
from headwater.bench.device.dry_run.work import WAITS

steps = record_steps("llama-3.1-8b-{kind}", 90, 2)
names = ("block_linear_kernel", "row_sums_kernel", "linear_kernel")
print(json.dumps({{
    "layer": {{record.step.name: [Counter(record.layer)[name] for name in names] for record in steps}},
    "weights": {{record.step.name: record.traffic.weights for record in steps}},
    "new": new_signatures(steps),
    "waits": [each.name for record in steps for each in record.work if each.kind in WAITS],
}}))
"""


@pytest.mark.parametrize(
    ("kind", "bits", "few", "many"),
    [
        # v is of another form than q and k. For the minima of Q4_K many rows are summed: of q and k, of o, of gate_up.
        ("q4_k_m", {"most": 4.5, "v_down": 6.5625, "head": 6.5625}, [5, 0, 0], [5, 3, 0]),
        ("gptq", {"most": 4.1875, "v_down": 4.1875, "head": 16}, [4, 0, 0], [4, 0, 0]),
    ],
)
def test_block_quantised_weights_are_read_as_they_are_packed(kind, bits, few, many):
    found = run(BLOCKS.format(kind=kind))
    assert (found["layer"]["decode 8"], found["layer"]["decode 64"]) == (few, many)
    assert (found["new"], found["waits"]) == ([], [])
    hidden, intermediate, kv = 4096, 14336, 8 * 128
    values = {
        "most": LAYERS * hidden * (2 * hidden + kv + 2 * intermediate),
        "v_down": LAYERS * hidden * (kv + intermediate),
        "head": hidden * 128256,
    }
    least = sum(values[name] * bits[name] / 8 for name in values)
    assert least < found["weights"]["decode 8"] < 1.06 * least


EXPERTS = """
import json
from collections import Counter
from headwater.bench.device.dry_run.__main__ import new_signatures, record_steps
from headwater.bench.device.dry_run.work import WAITS

steps = record_steps("{shape}", 90, 2)
print(json.dumps({{
    "layer": Counter(steps[0].layer),
    "weights": {{record.step.name: record.traffic.weights for record in steps}},
    "new": new_signatures(steps),
    "waits": [each.name for record in steps for each in record.work if each.kind in WAITS],
}}))
"""
MIXTURE = {"_choose_kernel": 1, "_sort_kernel": 1, "index_select": 1, "_grouped_kernel": 2, "_combine_kernel": 1}


def test_a_mixture_is_sorted_on_the_device_and_reads_the_experts_that_are_chosen():
    found = run(EXPERTS.format(shape="qwen3-30b-a3b"))
    # Its QK-norm takes whole heads: they are rotated by a launch of their own.
    apart = {"_rope_and_write_kernel": 1, "linear_kernel": 3, "_act_and_mul_kernel": 1}
    assert found["layer"] == {name: LAYER[name] for name in LAYER if name != "qkv_kernel"} | apart | MIXTURE
    assert (found["new"], found["waits"]) == ([], [])
    hidden, q, kv, router = 2048, 32 * 128, 4 * 128, 128
    rest = 151936 * hidden + LAYERS * hidden * (2 * q + 2 * kv + router)
    for step, experts in (("decode 1", 8), ("decode 8", 64), ("decode 64", 128)):
        assert found["weights"][step] == 2 * (rest + LAYERS * experts * 3 * 768 * hidden), step


def test_experts_in_mxfp4_are_read_as_they_are_packed():
    found = run(EXPERTS.format(shape="gpt-oss-20b"))
    grouped = MIXTURE["_grouped_kernel"]
    blocks = {name: count for name, count in MIXTURE.items() if name != "_grouped_kernel"}
    dense = {"linear_kernel": 2, "block_linear_kernel": grouped, "_act_and_mul_kernel": 1}
    assert found["layer"] == LAYER | dense | blocks
    assert (found["new"], found["waits"]) == ([], [])
    hidden, q, kv, router = 2880, 64 * 64, 8 * 64, 32
    rest = 2 * (201088 * hidden + LAYERS * hidden * (2 * q + 2 * kv + router))
    for step, experts in (("decode 1", 4), ("decode 8", 32)):
        assert found["weights"][step] == rest + LAYERS * experts * 3 * hidden * hidden * 4.5 / 8, step


# Faults, each of which the dry run has to find: what to put in place of an op of the backend.
FAULTY = """
import json

import torch
import triton

from headwater.bench.device.dry_run.__main__ import new_signatures, record_steps
from headwater.bench.device.dry_run.work import WAITS
from headwater.kernels import load_backend
from headwater.kernels.triton import rows

backend = load_backend("triton")
right = backend.{op}

def wrong(*arguments):
    {fault}
    return right(*arguments)

backend.{op} = wrong
records = record_steps("llama-3.1-8b", 90, 1)
waits = [each.kind for record in records for each in record.work if each.kind in WAITS]
print(json.dumps({{"new": new_signatures(records), "waits": waits}}))
"""


def test_a_batch_size_that_is_compiled_for_is_found():
    fault = "rows._BLOCK = triton.next_power_of_2(len(arguments[0]))"
    found = run(FAULTY.format(op="take_tokens", fault=fault))["new"]
    assert any(
        line.startswith("_take_tokens_kernel anew for 'chunks of 1900, 31, 7 and decode 33': BLOCK") for line in found
    )


def test_a_wait_of_the_host_is_found():
    fault = "arguments = (arguments[0], arguments[1].clone())"  # not pinned any more
    assert set(run(FAULTY.format(op="copy", fault=fault))["waits"]) == {"upload and wait"}


def test_a_wait_within_a_capture_is_found():
    with pytest.raises(AssertionError, match="in a capture: download and wait of"):
        run(FAULTY.format(op="count_tokens", fault="arguments[2].tolist()"))


def test_pinned_memory_that_is_written_too_early_is_found():
    script = """
from headwater.bench.device.dry_run.__main__ import record_steps
from headwater.engine.staging import StagedTensor

StagedTensor.turn = lambda self: 0  # one buffer for every step
record_steps("llama-3.1-8b", 90, 1)
"""
    with pytest.raises(AssertionError, match="pinned memory was reused too early"):
        run(script)


def test_a_window_is_a_launch_of_its_own():
    script = """
import json
from headwater.bench.device.dry_run.__main__ import new_signatures, record_steps

records = record_steps("gemma-3-4b", 90, 6)
kernels = [launch.name for launch in records[0].signatures.values()]
print(json.dumps({"new": new_signatures(records), "attention": kernels.count("_attention_kernel")}))
"""
    found = run(script)
    assert found == {"new": [], "attention": 4}  # two roles, with and without the window
