"""Triton kernels run in Triton's interpreter here; the variable has to be set before triton is imported.

Compiling for a GPU needs the variable unset: such tests run in a subprocess.
"""

import os

os.environ["TRITON_INTERPRET"] = "1"
