"""A CUDA device that is not there: tensors on it have a shape, a dtype and an address, and no memory.

Tensors of the CPU stay real, so that what the host computes (page tables, ids) is what it would be. Every operation
on the device is recorded: kernels of torch, launches of Triton with the signature of a real launch, graphs as what was
captured, copies between host and device and whether the host waits for them (as for those from memory that is not
pinned). Pinned memory that is written before its copy is known to be over is an error. Values that the host reads back
from the device are zeros.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import triton
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from ....kernels.triton.sample import _made as scratch_of_sampler
from ....kernels.triton.tiles import gpu_of
from ....kernels.triton.workspace import workspaces
from ..audit.gpus import AUDITED_GPUS
from ..audit.launches import recording
from .fake_graphs import recorded_graphs
from .fake_memory import Memory
from .pinned_copies import PinnedCopies
from .work import Kind, Work

DEVICE = torch.device("cuda", 0)
_ALIGNMENT_BYTES = 512  # of every block of torch's caching allocator

_LINEAR = ("linear", "mm", "addmm", "matmul")
_NO_WORK = (
    *("empty", "empty_like", "empty_strided", "new_empty"),
    *("detach", "detach_", "alias", "lift_fresh", "_unsafe_view"),
)
_GATHERS = ("index", "index_select", "embedding", "gather")


class _Recorder(TorchDispatchMode):
    """Real operations on CPU tensors, recorded ones on CUDA tensors."""

    def __init__(self, work: list[Work], copies: PinnedCopies, memory: Memory | None) -> None:
        super().__init__()
        self._work = work
        self._copies = copies
        self._memory = memory
        self._pinned: dict[int, torch.Tensor] = {}  # by the address of the storage
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("pin_memory"):
            made = func(*args, **{**kwargs, "pin_memory": False})  # pinning needs a driver
            self._pinned[made.untyped_storage().data_ptr()] = made
            return made
        inputs = [x for x in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        on_device = [x for x in inputs if x.is_cuda]
        device = kwargs.get("device")
        to_device = device is not None and torch.device(device).type == "cuda"
        name = func.overloadpacket.__name__
        if not on_device and not to_device:
            return func(*args, **kwargs)
        if func is torch.ops.prim.device.default:
            return args[0].fake_device
        if name not in _LINEAR and torch._C._dispatch_has_kernel_for_dispatch_key(
            func.name(), torch._C.DispatchKey.CompositeImplicitAutograd
        ):
            with self:  # inference mode hands over whole compositions; what counts is their parts
                return func.decompose(*args, **kwargs)
        if name == "_local_scalar_dense":
            return self._read_back(on_device[0]).item()
        if name == "copy_" and not args[0].is_cuda:
            self._read_back(on_device[0], _is_asynchronous(name, args, kwargs) and self._is_pinned(args[0]))
            return args[0]
        if device is not None and not to_device:
            return self._read_back(on_device[0]).to(kwargs.get("dtype"))
        with self._fake:
            out = func(*args, **kwargs)
        outputs = [x for x in torch.utils._pytree.tree_leaves(out) if isinstance(x, torch.Tensor)]
        if self._memory is not None:
            self._memory.take(outputs)
        if name not in _NO_WORK and not _is_view(func):
            self._record(name, inputs, outputs, _is_asynchronous(name, args, kwargs))
        return out

    def _is_pinned(self, host: torch.Tensor) -> bool:
        return host.untyped_storage().data_ptr() in self._pinned

    def _read_back(self, source: torch.Tensor, without_wait: bool = False) -> torch.Tensor:
        kind: Kind = "download" if without_wait else "download and wait"
        self._work.append(Work(kind, f"{source.dtype} {list(source.shape)}", {}, source.nbytes))
        return torch.zeros(source.shape, dtype=source.dtype)

    def _record(self, name: str, inputs: list[torch.Tensor], outputs: list[torch.Tensor], non_blocking: bool) -> None:
        host = [x for x in inputs if not x.is_cuda and x.dim() > 0]
        if host:
            is_asynchronous = non_blocking and self._is_pinned(host[0])
            if is_asynchronous:
                self._copies.launch(host[0])
            kind: Kind = "upload" if is_asynchronous else "upload and wait"
            self._work.append(Work(kind, f"{host[0].dtype} {list(host[0].shape)}", {}, host[0].nbytes))
            return
        read = outputs if name in _GATHERS else [x for x in inputs if x.is_cuda]
        traffic = sum(x.nbytes for x in read) + sum(x.nbytes for x in outputs)
        weight = {"weight": read[2 if name == "addmm" else 1]} if name in _LINEAR else {}
        kind = "linear" if weight else "torch"
        self._work.append(Work(kind, name, {} if self._memory else weight, traffic))


def _is_asynchronous(name: str, args: tuple, kwargs: dict) -> bool:
    """Whether a copy was asked not to wait."""
    return bool(kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2]))


def _is_view(func: Any) -> bool:
    """Whether the result shares memory with an input that is not written."""
    alias = func._schema.returns[0].alias_info if func._schema.returns else None
    return alias is not None and not alias.is_write


def _address(tensor: torch.Tensor) -> int:
    return _ALIGNMENT_BYTES + int(tensor.storage_offset()) * tensor.element_size()


def _get_item(tensor: torch.Tensor, index: Any) -> torch.Tensor:
    """Indexing, by the operations it stands for: torch without CUDA has no way to switch to the device first."""
    index = index if isinstance(index, tuple) else (index,)
    gathered: list[torch.Tensor | None] = []
    dim = 0
    for each in index:
        if isinstance(each, slice):
            tensor = torch.ops.aten.slice(tensor, dim, each.start, each.stop, each.step or 1)
        elif isinstance(each, torch.Tensor):
            gathered += [None] * (dim - len(gathered)) + [each]
        elif each is None:
            tensor = tensor.unsqueeze(dim)
        else:
            tensor = tensor.select(dim, each)
            continue
        dim += 1
    return torch.ops.aten.index(tensor, gathered) if gathered else tensor


def _copy(tensor: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    return torch.ops.aten.copy_(tensor, source, non_blocking)


def _contiguous(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.is_contiguous() else torch.ops.aten.clone(tensor, memory_format=torch.contiguous_format)


def _to_list(tensor: torch.Tensor) -> list[Any]:
    return tensor.cpu().tolist()  # one copy, not one for each value


def _set_item(tensor: torch.Tensor, index: Any, value: Any) -> None:
    target = _get_item(tensor, index)
    if isinstance(value, torch.Tensor):
        torch.ops.aten.copy_(target, value)
    else:
        target.fill_(value)


@contextmanager
def recorded_device(arch: int, memory: Memory | None = None) -> Iterator[list[Work]]:
    """While this is open there is a CUDA device of that architecture; what it is given to do is listed.

    Nothing is computed. Triton cannot launch in this process afterwards.

    Args:
        arch: one that is audited.
        memory: of the device, if tensors are to take any; work that is listed then keeps no tensors.
    """
    card = AUDITED_GPUS[arch]
    properties = SimpleNamespace(
        name=card.card, major=arch // 10, minor=arch % 10, multi_processor_count=card.multiprocessors
    )
    work: list[Work] = []
    copies = PinnedCopies()
    run = triton.JITFunction.run

    def note(kernel: triton.JITFunction, *args: Any, **kwargs: Any) -> None:
        run(kernel, *args, **kwargs)
        given = dict(zip(kernel.arg_names, args, strict=False)) | kwargs
        tensors = {name: value for name, value in given.items() if isinstance(value, torch.Tensor)}
        assert all(tensor.is_cuda for tensor in tensors.values()), f"{kernel.__name__} was given a CPU tensor"
        work.append(Work("triton", launches[-1].name, {} if memory else tensors, 0, launches[-1]))

    gpu_of.cache_clear()
    lifted_only = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # else torch.tensor(..., device="cuda") asks for a driver
    try:
        with (
            recording(arch) as launches,
            mock.patch.object(triton.JITFunction, "run", note),
            mock.patch.object(torch.cuda, "_lazy_init"),
            mock.patch.object(torch.cuda, "get_device_properties", return_value=properties),
            mock.patch.object(FakeTensor, "data_ptr", _address),
            mock.patch.object(FakeTensor, "__getitem__", _get_item, create=True),
            mock.patch.object(FakeTensor, "__setitem__", _set_item, create=True),
            mock.patch.object(FakeTensor, "copy_", _copy, create=True),
            mock.patch.object(FakeTensor, "contiguous", _contiguous, create=True),
            mock.patch.object(FakeTensor, "tolist", _to_list),
            recorded_graphs(work, copies, memory),
            memory.patched() if memory else nullcontext(),
            _Recorder(work, copies, memory),
        ):
            yield work
    finally:
        torch._C._set_only_lift_cpu_tensors(lifted_only)
        gpu_of.cache_clear()
        scratch_of_sampler.clear()
        workspaces.clear()
