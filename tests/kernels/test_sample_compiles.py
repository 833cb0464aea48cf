"""The sampler compiles for a GPU as it is launched there: no spills, and wide loads of the logits."""

import os
import subprocess
import sys

COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from headwater.bench.device.audit.binary import compile_and_read
from headwater.bench.device.audit.launches import sampler_launches

for launch in sampler_launches(90):
    if launch.name.endswith("full"):  # "plain" is a part of it
        source = ASTSource(launch.kernel, launch.signature, launch.constexprs, launch.attrs)
        compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=launch.options)
        facts = compile_and_read(launch, 90)
        wide = compiled.asm["ptx"].count("ld.global.v4.b32")
        print(launch.name, facts.stack_bytes, facts.loop_spills, wide, sep=";")
"""


def test_the_sampler_compiles_for_sm_90():
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    done = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    launches = [line.split(";") for line in done.stdout.splitlines()]
    assert [launch[0] for launch in launches] == ["sample tiles, full", "sample masses, full", "sample rows, full"]
    for name, stack, spills, wide_loads in launches:
        assert (stack, spills) == ("0", "0")
        assert int(wide_loads) >= (1 if "masses" in name else 2)  # which has one load of the logits
