import subprocess
import sys

IMPORT_ALL = """
import importlib, pkgutil, sys
import headwater.api
names = [module.name for module in pkgutil.walk_packages(headwater.api.__path__, "headwater.api.")]
for name in names:
    importlib.import_module(name)
print(len(names), "torch" in sys.modules)
"""


def test_the_api_never_imports_torch() -> None:
    result = subprocess.run([sys.executable, "-P", "-c", IMPORT_ALL], capture_output=True, text=True, check=True)
    count, torch = result.stdout.split()
    assert int(count) > 10
    assert torch == "False"
