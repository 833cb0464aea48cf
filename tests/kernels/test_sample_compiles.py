"""The sampler compiles for a GPU as it is launched there: no spills, and wide loads of the logits."""

import os
import subprocess
import sys

COMPILE = """
import os, re, subprocess, tempfile
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from headwater.kernels.triton.sample_audited import AUDITED

tool = os.path.join(os.path.dirname(triton.__file__), "backends/nvidia/bin/cuobjdump")
for launch in AUDITED:
    if not launch.name.endswith("full"):
        continue  # "plain" is a part of it
    source = ASTSource(launch.kernel, launch.signature, launch.constexprs, launch.attrs)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=launch.options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
    stack, local = (re.search(rf"{what}:(\\d+)", usage.stdout).group(1) for what in ("STACK", "LOCAL"))
    wide = compiled.asm["ptx"].count("ld.global.v4.b32")
    print(launch.name, stack, local, wide)
"""


def test_the_sampler_compiles_for_sm_90():
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    done = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    launches = [line.split() for line in done.stdout.splitlines()]
    assert [launch[0] for launch in launches] == ["sample_tiles_full", "sample_rows_full"]
    for _, stack, local, wide in launches:
        assert (stack, local) == ("0", "0")
        assert int(wide) >= 2
