"""Settings that must stand before torch and triton are imported."""

import os

# Threads must not spin while they wait: engine/__main__.py says why.
os.environ.setdefault("GOMP_SPINCOUNT", "0")
# Triton kernels run in Triton's interpreter. Tests that compile for a GPU unset this in a process of their own.
os.environ["TRITON_INTERPRET"] = "1"
