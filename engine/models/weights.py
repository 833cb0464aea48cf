"""From tensors of a checkpoint to weights of a backend: checked, fused, converted, on the device."""

import logging
import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol
from weakref import WeakValueDictionary

import torch

from ...kernels import Backend, Embedding, Linear
from ...kernels.block_columns import BlockColumns
from ...kernels.block_weight import BlockSource, BlockWeight
from ...kernels.quantize import scale_blocks
from ...kernels.quantize_blocks import GROUP, RoundedBlocks
from ...kernels.routing import GroupedLinear
from ..checkpoint.errors import ModelError
from ..checkpoint.kv_scales import KvScales, read_kv_scales
from ..checkpoint.quantized import QuantizationArgs, QuantizeName, StoredScales
from ..checkpoint.safetensors_dir import Checkpoint
from .adapters import Adapters
from .dtypes import FP8, Dtypes
from .shard import Cuts, Shard, split_order

EIGHT_BITS: dict[QuantizeName, torch.dtype] = {"int8": torch.int8, "fp8": FP8}
FP8_CAPABILITY = (8, 9)  # of CUDA devices that convert fp8 (e4m3) in hardware

logger = logging.getLogger(__name__)


class Weights(Protocol):
    """A checkpoint that is read by name; see Checkpoint, GgufCheckpoint."""

    def __contains__(self, name: str) -> bool: ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def get(self, name: str, expected_shape: Sequence[int]) -> torch.Tensor: ...

    def blocks(self, name: str, expected_shape: Sequence[int]) -> BlockSource | None: ...


class _Reordered(NamedTuple):
    """A block-quantised weight whose outputs are taken in another order, or some of them."""

    source: BlockSource
    order: torch.Tensor  # int64 [out]

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.order), self.source.shape[1]

    def take(self, rows: torch.Tensor | slice) -> BlockWeight:
        return self.source.take(self.order[rows])


class _Part(NamedTuple):
    """One matrix of the checkpoint, on the device."""

    values: torch.Tensor  # [out, in], in the storage dtype, or 8 bits wide with a scale for each output
    scale: torch.Tensor | None  # fp32 [out]


class WeightLoader:
    """Loads weights by name. One linear of the checkpoint is in flight at a time, besides the mapped file.

    Attributes:
        linear_bytes: what a row reads of the linears loaded so far, as their backend keeps them.
        has_blocks: whether some of them have weights in blocks.
        adapters: what may be added to them; None: nothing.
        shard: which part of the model is loaded.
    """

    def __init__(
        self,
        checkpoint: Weights,
        backend: Backend,
        dtypes: Dtypes,
        device: torch.device,
        stored_scales: StoredScales | None = None,
        quantize: QuantizeName | None = None,
        max_adapters: int = 0,
        shard: Shard | None = None,
    ) -> None:
        """``stored_scales``: how the checkpoint is quantised; ``quantize``: to what linears are rounded that aren't."""
        self.shard = shard or Shard()
        self.linear_bytes = 0
        self.has_blocks = False
        self.adapters = Adapters(backend, max_adapters, dtypes.rows, device) if max_adapters else None
        self.backend = backend
        self.device = device
        self.dtypes = dtypes
        self._checkpoint = checkpoint
        self._scales = stored_scales
        self._quantize = quantize
        # A matrix that is still in use, such as an embedding tied to the head, is not loaded twice.
        self._loaded: WeakValueDictionary[str, torch.Tensor] = WeakValueDictionary()
        self._packed: WeakValueDictionary[str, Linear] = WeakValueDictionary()
        self._told_of_floats = False  # the log has that some linears are not rounded
        if quantize in EIGHT_BITS:
            self._check_device(EIGHT_BITS[quantize])

    def tensor(self, name: str, shape: Sequence[int]) -> torch.Tensor:
        """A weight matrix of that shape on the device. Raises ModelError."""
        loaded = self._loaded.get(name)
        if loaded is None:
            loaded = self._stored(self._checkpoint.get(name, shape).to(self.device))
            self._loaded[name] = loaded
        return loaded

    def vector(self, name: str, size: int) -> torch.Tensor:
        """A norm weight or bias, [size], in the rows' dtype. Raises ModelError."""
        return self.tensor(name, (size,)).to(self.dtypes.rows)

    def fp32(self, name: str, size: int, default: float | None = None) -> torch.Tensor:
        """Values [size], in whatever shape they lie, that are not rounded to the model's dtype. Raises ModelError.

        ``default``: of each, where the checkpoint has none.
        """
        if name not in self._checkpoint and default is not None:
            return torch.full((size,), default, device=self.device)
        stored = self._checkpoint.shape(name) if name in self._checkpoint else ()
        values = self._checkpoint.get(name, stored if math.prod(stored) == size else (size,))
        return values.to(self.device).float().reshape(size)

    def vectors(self, module: str, count: int, size: int) -> torch.Tensor:
        """Norm weights of ``count`` heads, one after another: a matrix, or one tensor for each. Raises ModelError."""
        if f"{module}.weight" in self._checkpoint:
            return self.tensor(f"{module}.weight", (count, size)).to(self.dtypes.rows).flatten()
        return torch.cat([self.vector(f"{module}.{index}.weight", size) for index in range(count)])

    def kv_scales(self, attention: str, scheme: QuantizationArgs | None) -> KvScales:
        """Of the pages of a layer, by the name of its attention module; 1 unless they are fp8. Raises ModelError."""
        if self.dtypes.pages != FP8:
            return KvScales()
        return read_kv_scales(self._checkpoint, attention, scheme)

    def embedding(self, module: str, vocab: int, hidden: int) -> Embedding:
        """A table [vocab, hidden], as it is quantised if the file has it so. Raises ModelError."""
        name = f"{module}.weight"
        source = self._checkpoint.blocks(name, (vocab, hidden)) if self._quantize is None else None
        if source is None or not _fits(source):
            return self.tensor(name, (vocab, hidden))
        packed = self._packed[name] = self.backend.pack_blocks([source], None, self.dtypes.rows, self.device)
        return packed

    def linear(
        self, parts: Sequence[tuple[str, int]], inner: int, bias: bool, order: torch.Tensor | None = None
    ) -> Linear:
        """One linear from one or several (module name, output width) that read the same rows. Raises ModelError.

        ``order``: int64 [any], which of the outputs, put one after another, comes first, second and so on; those of a
        part stay together. The others are not read.
        """
        linear = self._linear(parts, inner, bias, order, self.dtypes.block_rows)
        self.linear_bytes += linear.nbytes
        return linear if self.adapters is None else self.adapters.wrap(linear, parts, inner, order)

    def summed_linear(self, module: str, width: int, inner: int, bias: bool, cuts: Cuts | None) -> Linear:
        """A linear whose inputs are divided among the ranks. Raises ModelError.

        ``cuts``: how they are; None: it is an ordinary one.
        """
        if cuts is None:
            return self.linear([(module, width)], inner, bias)
        exchange = self.shard.exchange
        assert exchange is not None, "cuts without anybody to sum up with"
        linear = exchange.summed(
            [self._segment(module, width, inner, bias, cut) for cut in cuts.own],
            [end - start for start, end in cuts.own],
        )
        self.linear_bytes += linear.nbytes
        if self.adapters is None:
            return linear
        # An adapter is small: every rank computes all of it, from all ranks' rows.
        return self.adapters.wrap(linear, [(module, width)], inner, None, lambda x: exchange.gather(x, cuts.widths))

    def head(self, module: str, vocab: int, hidden: int, bias: bool) -> Linear:
        """The linear to this rank's logits, which are read as they are: its rows are not rounded. Raises ModelError."""
        own = None
        if self.shard.size > 1:
            counts, rank = self.shard.vocabulary(vocab), self.shard.rank
            own = torch.arange(sum(counts[:rank]), sum(counts[: rank + 1]))
        linear = self._linear([(module, vocab)], hidden, bias, own, self.dtypes.rows)
        self.linear_bytes += linear.nbytes
        return linear

    def expert_linears(self, experts: Sequence[Sequence[tuple[str, int]]], inner: int, bias: bool) -> GroupedLinear:
        """The first linear of each expert, gate and up of one width, which no adapter changes. Raises ModelError."""
        own = self.shard.gated(experts[0][0][1])
        return self._group([self._linear(parts, inner, bias, own, self.dtypes.block_rows) for parts in experts])

    def summed_expert_linears(self, modules: Sequence[str], width: int, inner: int, bias: bool) -> GroupedLinear:
        """The last linear of each expert, whose inputs are divided among the ranks. Raises ModelError."""
        cuts, exchange = self.shard.width_cuts(inner), self.shard.exchange
        if cuts is None or exchange is None:
            return self._group(
                [self._linear([(name, width)], inner, bias, None, self.dtypes.block_rows) for name in modules]
            )
        groups = [self._group([self._segment(name, width, inner, bias, cut) for name in modules]) for cut in cuts.own]
        return exchange.summed_group(groups, [end - start for start, end in cuts.own])

    def _group(self, linears: list[Linear]) -> GroupedLinear:
        self.linear_bytes += sum(linear.nbytes for linear in linears)
        return self.backend.group_linears(linears)

    def _segment(self, module: str, width: int, inner: int, bias: bool, cut: tuple[int, int]) -> Linear:
        # The first one has the bias: it is added once, and in the same place whoever computes it.
        return self._linear([(module, width)], inner, bias and cut[0] == 0, None, self.dtypes.block_rows, cut)

    def float_linear(self, module: str, outputs: int, inner: int, bias: bool = False) -> Linear:
        """A small linear that is not to be rounded: which experts a row goes to hangs on it. Raises ModelError."""
        biases = self.vector(f"{module}.bias", outputs) if bias else None
        linear = self.backend.pack_linear(self._widened(self._part(module, outputs, inner, None, None)), biases)
        self.linear_bytes += linear.nbytes
        return linear if self.adapters is None else self.adapters.wrap(linear, [(module, outputs)], inner, None)

    def _linear(
        self,
        parts: Sequence[tuple[str, int]],
        inner: int,
        bias: bool,
        order: torch.Tensor | None,
        block_rows: torch.dtype,
        cut: tuple[int, int] | None = None,
    ) -> Linear:
        """``cut``: the inputs that it has; None: all."""
        biases = _fuse([self.vector(f"{name}.bias", width) for name, width in parts], order) if bias else None
        if (packed := self._blocks(parts, inner, biases, order, block_rows, cut)) is not None:
            return packed
        orders = split_order([width for _, width in parts], order)
        loaded = [self._part(name, width, inner, own, cut) for (name, width), own in zip(parts, orders, strict=True)]
        scales = [part.scale for part in loaded if part.scale is not None]
        if len(scales) == len(loaded) and len({part.values.dtype for part in loaded}) == 1:
            return self.backend.pack_quantized(_fuse([part.values for part in loaded]), _fuse(scales), biases)
        floats = [self._widened(part) for part in loaded]
        if self._quantize == "int4" and self._has_whole_groups(parts[0][0], floats[0].shape[1]):
            return self._rounded_to_blocks([name for name, _ in parts], floats, biases, block_rows)
        weight = _fuse(floats)
        if self._quantize in EIGHT_BITS:
            return self.backend.quantize_linear(weight, biases, EIGHT_BITS[self._quantize])
        return self.backend.pack_linear(weight, biases)

    def _has_whole_groups(self, name: str, inner: int) -> bool:
        if inner % GROUP and not self._told_of_floats:
            logger.warning("%s and others like it are not rounded: %d inputs are not groups of %d", name, inner, GROUP)
            self._told_of_floats = True
        return inner % GROUP == 0

    def _rounded_to_blocks(
        self,
        names: list[str],
        weights: list[torch.Tensor],
        biases: torch.Tensor | None,
        block_rows: torch.dtype,
    ) -> Linear:
        sources: list[BlockSource] = [RoundedBlocks(weight) for weight in weights]
        self.has_blocks = True
        try:
            return self.backend.pack_blocks(sources, biases, block_rows, self.device)
        except ValueError as error:
            raise ModelError(f"--quantize int4: {', '.join(names)}: {error}") from error

    def _blocks(
        self,
        parts: Sequence[tuple[str, int]],
        inner: int,
        biases: torch.Tensor | None,
        order: torch.Tensor | None,
        block_rows: torch.dtype,
        cut: tuple[int, int] | None,
    ) -> Linear | None:
        """None if a part isn't block-quantised, or is to be rounded to something else."""
        if self._quantize is not None:
            return None
        (first, _), *others = parts
        if (
            not others
            and biases is None
            and order is None
            and (packed := self._packed.get(f"{first}.weight")) is not None
        ):
            return packed
        found = [self._checkpoint.blocks(f"{name}.weight", (width, inner)) for name, width in parts]
        sources = [_cut(source, cut, first) for source in found if source is not None]
        sources = [source for source in sources if _fits(source)]
        if len(sources) < len(parts):
            return None
        if order is not None:
            sources = _reorder(sources, order)
        self.has_blocks = True
        return self.backend.pack_blocks(sources, biases, block_rows, self.device)

    def _part(
        self, module: str, width: int, inner: int, rows: torch.Tensor | None, cut: tuple[int, int] | None
    ) -> _Part:
        """``rows``, ``cut``: its outputs and inputs that are taken; None: all."""
        name = f"{module}.weight"
        outputs = slice(None) if rows is None else _as_range(rows)
        inputs = slice(None) if cut is None else slice(*cut)
        scales = self._scales
        # What the checkpoint excludes from quantisation, the head as a rule, is stored as floats.
        if scales is None or not isinstance(self._checkpoint, Checkpoint) or not self._checkpoint.is_eight_bit(name):
            if rows is None and cut is None:
                return _Part(self.tensor(name, (width, inner)), None)
            # Only what is taken of a file in memory is read.
            taken = self._checkpoint.get(name, (width, inner))[:, inputs][outputs]
            return _Part(self._stored(taken.to(self.device)), None)
        values = self._checkpoint.get_eight_bit(name, (width, inner)).to(self.device)
        self._check_device(values.dtype)
        scale = self._checkpoint.get_scales(f"{module}.{scales.name}", scales.shape(width, inner))
        scale = scale.to(self.device).float()
        if scales.cols == 0:
            if self._quantize is not None and EIGHT_BITS.get(self._quantize) != values.dtype:
                raise ModelError(f"{name} is stored in 8 bits already: leave --quantize {self._quantize} out")
            of_output = scale.repeat_interleave(scales.rows or width, 0)[:width, 0]
            return _Part(values[:, inputs][outputs].contiguous(), of_output[outputs].contiguous())
        # No kernel has a scale for each block of inputs.
        widened = scale_blocks(values, scale, scales.rows or width, scales.cols)
        return _Part(self._stored(widened[:, inputs][outputs]), None)

    def _widened(self, part: _Part) -> torch.Tensor:
        if part.scale is None:
            return part.values
        return self._stored(scale_blocks(part.values, part.scale[:, None], 1, part.values.shape[1]))

    def _stored(self, loaded: torch.Tensor) -> torch.Tensor:
        # First to the dtype that was asked for, so that fp16 widened to fp32 has fp16's values.
        return loaded.to(self.dtypes.model).to(self.dtypes.weights).contiguous()

    def _check_device(self, dtype: torch.dtype) -> None:
        if dtype == FP8 and self.device.type == "cuda":
            capability = torch.cuda.get_device_capability(self.device)
            if capability < FP8_CAPABILITY:
                raise ModelError(
                    f"fp8 weights need compute capability {'.'.join(map(str, FP8_CAPABILITY))}, this GPU has "
                    f"{'.'.join(map(str, capability))}. Take the unquantised model, with --quantize int8 if need be"
                )


def _fits(source: BlockSource) -> bool:
    """Whether kernels take it as it is; else it is widened."""
    sample = source.take(slice(0, 1))
    return sample.shape[1] % 32 == 0 and sample.group % 16 == 0


def _reorder(sources: Sequence[BlockSource], order: torch.Tensor) -> list[BlockSource]:
    """``order`` is over all outputs, and each part's stay together."""
    orders = split_order([source.shape[0] for source in sources], order)
    return [_Reordered(source, own) for source, own in zip(sources, orders, strict=True) if own is not None]


def _as_range(rows: torch.Tensor) -> torch.Tensor | slice:
    """A range where the numbers are one: it is not copied."""
    first = int(rows[0])
    return slice(first, first + len(rows)) if torch.equal(rows, torch.arange(first, first + len(rows))) else rows


def _cut(source: BlockSource, cut: tuple[int, int] | None, name: str) -> BlockSource:
    """Some of its inputs. Raises ModelError."""
    if cut is None:
        return source
    if source.take(slice(0, 1)).order is not None:
        raise ModelError(f"--num-shard: {name}: weights with an order of inputs (desc_act) can't be divided")
    return BlockColumns(source, *cut)


def _fuse(parts: list[torch.Tensor], order: torch.Tensor | None = None) -> torch.Tensor:
    """One after another; a single one is not copied."""
    fused = parts[0] if len(parts) == 1 else torch.cat(parts)
    return fused if order is None else fused[order.to(fused.device)]
