"""The runner on a recorded device: launches per layer, bytes, signatures that stay the same, and that all compile.

In processes of their own: nothing may be interpreted, and Triton cannot launch where launches were recorded.
"""

import json
import os
import subprocess
import sys

import pytest

# A layer of Llama: the least that its own kernels and the vendor's linears come to today. The goal is 8.
LAYER = {
    "_rope_and_write_kernel": 1,
    "_attention_kernel": 2,
    "_merge_kernel": 1,
    "linear": 4,
    "_rms_norm_kernel": 2,
    "_act_and_mul_kernel": 1,
}
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
from headwater.engine.dry_run import compile_all, new_signatures, record_steps

records = record_steps("llama-3.1-8b", 90, {LAYERS})
launches = {{key: launch for record in records for key, launch in record.signatures.items()}}
print(json.dumps({{
    "layers": [Counter(record.layer) for record in records],
    "traffic": {{record.step.name: record.traffic._asdict() for record in records}},
    "host": [Counter(each.kind for each in record.work) for record in records],
    "new": new_signatures(records),
    "kernels": sorted(launch.name for launch in launches.values()),
    "failures": compile_all(launches, 90),
}}))
"""


@pytest.fixture(scope="module")
def llama() -> dict:
    return run(LLAMA)


def test_launches_of_a_layer(llama):
    assert all(layer == LAYER for layer in llama["layers"])


def test_no_launch_is_specialised_anew_when_batch_or_lengths_change(llama):
    assert llama["new"] == []


def test_every_launch_compiles(llama):
    assert llama["failures"] == []
    assert set(LAYER) - {"linear"} <= set(llama["kernels"])
    assert {"_plan_kernel", "tiles_kernel", "rows_kernel"} <= set(llama["kernels"])


def test_bytes_of_a_decode_step(llama):
    traffic = llama["traffic"]["decode 64"]
    hidden, intermediate, vocab, kv = 4096, 14336, 128256, 8 * 128
    layer = hidden * (hidden + 2 * kv) + hidden * hidden + 3 * hidden * intermediate
    assert traffic["weights"] == 2 * (LAYERS * layer + vocab * hidden)
    # 64 sequences of 4096 tokens are read, one position of each is written.
    assert traffic["kv"] == 2 * 2 * kv * LAYERS * 64 * (4096 + 1)
    assert 0 < traffic["rest"] < 0.1 * (traffic["weights"] + traffic["kv"] + traffic["rows"])


def test_the_host_reads_back_only_what_was_sampled(llama):
    assert all(host["readback"] <= 2 for host in llama["host"])  # tokens and logprobs


def test_a_batch_size_that_is_compiled_for_is_found():
    script = """
import json
from headwater.engine.dry_run import new_signatures, record_steps
from headwater.kernels.triton import attention_plan

attention_plan._LEAST_BLOCK = 1
print(json.dumps({"new": new_signatures(record_steps("llama-3.1-8b", 90, 2))}))
"""
    found = run(script)["new"]
    assert any(line.startswith("_plan_kernel anew for 'decode 8': BLOCK 1 -> 8") for line in found)


def test_a_window_is_a_launch_of_its_own():
    script = """
import json
from headwater.engine.dry_run import new_signatures, record_steps

records = record_steps("gemma-3-4b", 90, 6)
kernels = [launch.name for launch in records[0].signatures.values()]
print(json.dumps({"new": new_signatures(records), "attention": kernels.count("_attention_kernel")}))
"""
    found = run(script)
    assert found == {"new": [], "attention": 4}  # two roles, with and without the window
