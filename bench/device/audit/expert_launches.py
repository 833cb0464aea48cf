"""The launches of a mixture of experts, recorded as those of launches.py."""

import torch

from ....kernels.routing import GroupedLinear, Routing, RoutingRule
from ....kernels.triton import block_linear, grouped
from ....kernels.triton.block_grouped import GroupedBlocks
from ....kernels.triton.route import combine, route, weigh
from ....kernels.triton.tiles import Gpu
from ..blocks import BLOCK_KINDS, made_up_blocks
from ..shapes import Model
from .gpus import AUDITED_GPUS
from .launches import DECODE_ROWS, FP8_FROM, PREFILL_ROWS, Launch, recording

_SOME_ROWS = 1024  # of which experts have some 64 each
_EIGHT_BITS = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}


def expert_launches(model: Model, arch: int) -> list[Launch]:
    """Routing at the decode step, and the experts' gate and up projection in each form and tile."""
    experts, slots, hidden = model.experts, model.slots, model.hidden
    logits = torch.empty(DECODE_ROWS, experts, dtype=torch.bfloat16)
    y = torch.empty(DECODE_ROWS * slots, hidden, dtype=torch.bfloat16)
    with recording(arch) as launches:
        routing = route(logits, RoutingRule(slots, renormalise=True))
        combine(y, routing)
        route(logits, RoutingRule(slots, "sigmoid"), torch.empty(experts))
        weigh(y, routing)
    choose, sort, combined, biased, _, weighed = launches
    found = [
        choose._replace(name="choose experts", traffic_bytes=logits.nbytes),
        sort._replace(name="sort by expert"),
        combined._replace(name="combine experts", traffic_bytes=y.nbytes + y.nbytes // slots),
        biased._replace(name="choose experts, biased", traffic_bytes=logits.nbytes),
        weighed._replace(name="weigh experts' rows", traffic_bytes=2 * y.nbytes),
    ]
    outputs = 2 * model.expert_width
    for form in ("bf16", "int8", *(("fp8",) if arch >= FP8_FROM else ()), model.expert_blocks):
        group = _group(form, experts, outputs, hidden, arch)
        for rows in (DECODE_ROWS, _SOME_ROWS, PREFILL_ROWS):
            x = torch.empty(rows * slots, hidden, dtype=torch.bfloat16)
            with recording(arch) as launches:
                group(x, _routing(rows, slots, experts))
            found.append(
                launches[-1]._replace(
                    name=f"{form} experts, {rows} rows",
                    traffic_bytes=group.nbytes + 2 * rows * slots * (hidden + outputs),
                    flops=2 * rows * slots * hidden * outputs,
                )
            )
    return found


def _group(form: str, experts: int, outputs: int, inputs: int, arch: int) -> GroupedLinear:
    if form in BLOCK_KINDS:
        cpu = torch.device("cpu")
        blocks = made_up_blocks(form, outputs, inputs, cpu)
        bias = torch.empty(outputs, dtype=torch.bfloat16) if form == "MXFP4" else None  # as GPT-OSS has it
        member = block_linear.BlockLinear([blocks], bias, cpu, Gpu(arch, AUDITED_GPUS[arch].multiprocessors))
        return GroupedBlocks([member] * experts)
    weight = torch.empty(experts, outputs, inputs, dtype=_EIGHT_BITS.get(form, torch.bfloat16))
    scale = torch.empty(experts, outputs) if form in _EIGHT_BITS else None
    return grouped.GroupedDense(weight, scale, None, Gpu(arch, AUDITED_GPUS[arch].multiprocessors))


def _routing(rows: int, slots: int, experts: int) -> Routing:
    pairs = torch.empty(rows * slots, dtype=torch.int64)
    by_row = pairs.view(rows, slots)
    return Routing(by_row.int(), by_row.float(), pairs, by_row, torch.empty(experts + 1, dtype=torch.int32))
