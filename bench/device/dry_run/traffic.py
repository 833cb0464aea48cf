"""Bytes that the recorded work of a step moves, and the least that the step has to."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from ....engine.chunk import Chunk
from ....kernels.triton.attention_plan import SPLIT_ROWS, has_many_rows
from ....kernels.triton.splits import max_splits
from ....kernels.triton.tiles import attention_tiles, gpu_of
from .work import Work


class Traffic(NamedTuple):
    """Of one step, bytes. Everything is counted once for each kernel that reads or writes it."""

    weights: int  # of linears, read
    kv: int  # read and written
    rows: int  # in and out of the linears
    rest: int  # norms, rotation, attention's rows and partial results, activations, sampling

    @property
    def least(self) -> int:
        """What no fusion can save: weights, KV, and the rows that linears exchange."""
        return self.weights + self.kv + self.rows

    @property
    def moved(self) -> int:
        return self.least + self.rest


@dataclass(frozen=True)
class Call:
    """Arguments of a Triton launch by name: constants, and the bytes of one row of each tensor."""

    work: Work

    def constant(self, name: str) -> int:
        launch = self.work.launch
        assert launch is not None
        value = launch.constexprs[(launch.kernel.arg_names.index(name),)]
        assert isinstance(value, int), f"{name} is {value!r}"
        return value

    def nbytes(self, *names: str) -> int:
        """Of several arguments; one that is given twice counts once."""
        return sum({t.data_ptr() + id(t): t.nbytes for t in (self.work.tensors[name] for name in names)}.values())

    def position_bytes(self) -> int:
        """K and V of one token position in one layer."""
        k_pages = self.work.tensors["k_ptr"]
        return 2 * k_pages.shape[1] * k_pages.shape[3] * k_pages.element_size()


def traffic_of(work: Iterable[Work], chunks: list[Chunk]) -> Traffic:
    """Sum up the recorded work of the step that ran ``chunks``."""
    weights = kv = rows = rest = 0
    for each in work:
        if each.kind == "linear":
            weight_bytes = each.tensors["weight"].nbytes
            weights += weight_bytes
            rows += each.traffic_bytes - weight_bytes
        elif each.kind == "torch":
            rest += each.traffic_bytes
        elif each.name in ("linear_kernel", "qkv_kernel"):
            call = Call(each)
            weights += call.nbytes("weight_ptr") + (call.nbytes("scale_ptr") if call.constant("SCALED") else 0)
            rows += call.nbytes("x_ptr", "y_ptr" if each.name == "linear_kernel" else "q_ptr")
            rest += _segment_bytes(call)
            if each.name == "qkv_kernel":
                count = each.tensors["positions_ptr"].numel()
                kv += count * call.position_bytes()
                rest += call.nbytes("positions_ptr", "slots_ptr") + count * call.constant("HEAD_DIM") * 4
        elif each.name == "block_linear_kernel":
            call = Call(each)
            weights += _of_experts(call, call.nbytes("low_ptr", "high_ptr", "spans_ptr", "bases_ptr"))
            written = call.constant("WIDTH") * _row_bytes(call, "y_ptr") // call.constant("Y_STRIDE")
            rows += call.nbytes("x_ptr") + written * each.tensors["y_ptr"].shape[0]
        elif each.name == "_grouped_kernel":
            call = Call(each)
            weights += _of_experts(call, call.nbytes("weight_ptr"))
            rows += call.nbytes("x_ptr", "y_ptr")
        elif each.kind == "triton":
            kv_bytes, rest_bytes = _launch_bytes(Call(each), chunks)
            kv += kv_bytes
            rest += rest_bytes
    return Traffic(weights, kv, rows, rest)


def _segment_bytes(call: Call) -> int:
    """Sums of segments that have a program each: written and read."""
    if not call.constant("SPLIT"):
        return 0
    rows = -(-call.work.tensors["x_ptr"].shape[0] // call.constant("BLOCK_ROWS")) * call.constant("BLOCK_ROWS")
    return 2 * 4 * call.constant("SEGMENTS") * call.constant("OUTPUTS") * rows


def _of_experts(call: Call, nbytes: int) -> int:
    """What is read of weights, if as many experts have rows as can have any."""
    experts, pairs = call.constant("EXPERTS"), call.work.tensors["x_ptr"].shape[0]
    return nbytes * min(experts, pairs) // experts if experts else nbytes


def _launch_bytes(call: Call, chunks: list[Chunk]) -> tuple[int, int]:
    """(KV, rest) that one launch moves."""
    name, tensors = call.work.name, call.work.tensors
    if name == "_rms_norm_kernel":
        sums = call.nbytes("residual_ptr") if call.constant("ADD") else 0
        return 0, call.nbytes("x_ptr", "residual_ptr", "weight_ptr", "y_ptr") + sums
    if name == "_rope_and_write_kernel":
        count = tensors["positions_ptr"].numel()
        angles = count * call.constant("HEAD_DIM") * 4
        return count * call.position_bytes(), call.nbytes("qkv_ptr", "q_ptr", "positions_ptr", "slots_ptr") + angles
    if name == "_attention_kernel":
        return _attention_bytes(call, chunks)
    if name == "_merge_kernel":
        partial = sum(_partial_rows(chunk) for chunk in chunks) * _partial_row_bytes(call)
        return 0, partial + sum(chunk.count for chunk in chunks if _partial_rows(chunk)) * _row_bytes(call, "out_ptr")
    if name == "tiles_kernel":
        return 0, call.nbytes("logits_ptr") * 2  # written back where the allowed set is bounded
    if name == "masses_kernel":
        return 0, call.nbytes("z_ptr")
    if name == "rows_kernel":
        return 0, call.nbytes("z_ptr")  # at the most: groups that have what belongs into the list
    if name == "block_embed_kernel":
        return 0, call.nbytes("token_ids_ptr", "y_ptr") * 2  # of the table less than what comes out of it
    if name == "_count_tokens_kernel":
        return 0, call.nbytes("rows_ptr", "token_ids_ptr") + 2 * 4 * tensors["rows_ptr"].numel()
    return 0, sum(tensor.nbytes for tensor in tensors.values())


def own_chunks(call: Call, chunks: list[Chunk]) -> list[Chunk]:
    """Those that belong to a launch of attention: by whether their rows are few."""
    few, group, q = call.constant("COUNT") == 0, call.constant("GROUP"), call.work.tensors["q_ptr"]
    tile, many = attention_tiles(gpu_of(q.device), group, call.constant("HEAD_DIM"))
    if not has_many_rows(q.shape[0], group, tile, many):
        return chunks if few else []
    return [chunk for chunk in chunks if (chunk.count * group <= tile.rows) == few]


def _attention_bytes(call: Call, chunks: list[Chunk]) -> tuple[int, int]:
    """Sequences whose rows are few belong to one launch, the others to the other; K and V are read once a sequence."""
    window, positions = call.constant("WINDOW"), 0
    own = own_chunks(call, chunks)
    for chunk in own:
        end = chunk.start + chunk.count
        positions += min(end, window + chunk.count) if window else end
    partial = sum(_partial_rows(chunk) for chunk in own) * _partial_row_bytes(call)
    rows = sum(chunk.count for chunk in own) * _row_bytes(call, "q_ptr")
    direct = sum(chunk.count for chunk in own if not _partial_rows(chunk)) * _row_bytes(call, "out_ptr")
    return positions * call.position_bytes(), rows + partial + direct


def _partial_rows(chunk: Chunk) -> int:
    """Partial results of a chunk."""
    splits = max_splits(chunk.start + chunk.count)
    return chunk.count * splits if splits > 1 and chunk.count <= SPLIT_ROWS else 0


def _row_bytes(call: Call, name: str) -> int:
    tensor = call.work.tensors[name]
    return tensor.nbytes // tensor.shape[0]


def _partial_row_bytes(call: Call) -> int:
    return _row_bytes(call, "partial_out_ptr") + _row_bytes(call, "partial_stats_ptr")
