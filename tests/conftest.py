"""Settings that must stand before torch and triton are imported."""

import os

# torch's threads must not spin while they wait for each other: servers under test want the same cores.
os.environ.setdefault("GOMP_SPINCOUNT", "0")
# Triton kernels run in Triton's interpreter. Tests that compile for a GPU unset this in a process of their own.
os.environ["TRITON_INTERPRET"] = "1"
