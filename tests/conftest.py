"""Before torch is imported: its threads must not spin while they wait (engine/__main__.py says why)."""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "0")
