"""Both backends offer every op of the interface, under the same argument names."""

import inspect

import pytest

from headwater.kernels import Backend, load_backend

OPS = sorted(name for name in vars(Backend) if not name.startswith("_"))


@pytest.mark.parametrize("name", ["cpu", "triton"])
@pytest.mark.parametrize("op", OPS)
def test_a_backend_has_the_op_with_the_interfaces_arguments(name: str, op: str) -> None:
    wanted = list(inspect.signature(getattr(Backend, op)).parameters)[1:]  # without self
    got = inspect.signature(getattr(load_backend(name), op)).parameters
    assert list(got)[: len(wanted)] == wanted
    assert all(got[extra].default is not inspect.Parameter.empty for extra in list(got)[len(wanted) :])
