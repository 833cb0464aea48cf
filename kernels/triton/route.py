"""Mixture of experts (Shazeer et al. 2017, arXiv 1701.06538): who a row goes to, and the sum of what they give.

Grids depend on the number of rows alone and the host waits for nothing, so a CUDA graph can hold all of it.
"""

from dataclasses import replace

import torch
import triton
import triton.language as tl

from ..routing import Routing, RoutingRule

_PAIRS = 1024  # that a program looks at in one turn
_BLOCK = 1024  # columns of a program


@triton.jit
def _choose_kernel(
    logits_ptr,  # [rows, EXPERTS]
    bias_ptr,  # fp32 [EXPERTS], read with BIASED
    ids_ptr,  # int32 [rows, SLOTS] out
    weights_ptr,  # fp32 [rows, SLOTS] out
    scale,
    tolerance,  # read with SPARSE
    EXPERTS: tl.constexpr,
    SLOTS: tl.constexpr,
    SIGMOID: tl.constexpr,
    SPARSE: tl.constexpr,
    BIASED: tl.constexpr,
    RENORMALISE: tl.constexpr,
    BLOCK: tl.constexpr,  # power of two >= EXPERTS
    SLOT_BLOCK: tl.constexpr,  # power of two >= SLOTS
):
    row = tl.program_id(0).to(tl.int64)
    expert, slot = tl.arange(0, BLOCK), tl.arange(0, SLOT_BLOCK)
    logits = tl.load(logits_ptr + row * EXPERTS + expert, mask=expert < EXPERTS, other=float("-inf")).to(tl.float32)
    ranked = tl.where(logits == logits, logits, float("-inf"))  # what is no number comes last
    if SIGMOID:
        values = 1.0 / (1.0 + tl.exp(-logits))
    else:
        values = tl.exp(logits - tl.max(ranked, axis=0))
        values = values / tl.sum(values, axis=0)
    if BIASED:
        biased = values + tl.load(bias_ptr + expert, mask=expert < EXPERTS, other=0.0)
        ranked = tl.where(biased == biased, biased, float("-inf"))
    taken = expert >= EXPERTS
    ids, weights = tl.zeros([SLOT_BLOCK], tl.int32), tl.zeros([SLOT_BLOCK], tl.float32)
    for i in tl.static_range(SLOTS):
        best = tl.max(tl.where(taken, float("-inf"), ranked), axis=0)
        chosen = tl.min(tl.where((ranked == best) & (taken == 0), expert, BLOCK), axis=0)
        weight = tl.sum(tl.where(expert == chosen, values, 0.0), axis=0)
        if SPARSE:
            is_near = (taken == 0) & ((best - ranked) / tl.maximum(tl.abs(ranked), best) <= tolerance)
            weight = 1.0 / tl.sum(tl.where(is_near, tl.exp(ranked - best), 0.0), axis=0)
        taken = taken | (expert == chosen)
        ids = tl.where(slot == i, chosen, ids)
        weights = tl.where(slot == i, weight, weights)
    if RENORMALISE:
        weights = weights / tl.sum(weights, axis=0)
    at = row * SLOTS + slot
    tl.store(ids_ptr + at, ids, mask=slot < SLOTS)
    tl.store(weights_ptr + at, weights * scale, mask=slot < SLOTS)


@triton.jit(do_not_specialize=["pairs"])
def _sort_kernel(
    ids_ptr,  # int32 [pairs]
    rows_ptr,  # int64 [pairs] out, the row of each pair, by expert and then by row
    positions_ptr,  # int64 [pairs] out, where a row's pairs are in that order
    starts_ptr,  # int32 [experts + 1] out, where the pairs of each expert begin
    pairs,
    SLOTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A program for each expert. It counts what comes before its pairs, then gives them places in their order."""
    expert = tl.program_id(0)
    before, own = tl.zeros([BLOCK], tl.int32), tl.zeros([BLOCK], tl.int32)
    for begin in range(0, pairs, BLOCK):
        pair = begin + tl.arange(0, BLOCK)
        ids = tl.load(ids_ptr + pair, mask=pair < pairs, other=tl.num_programs(0))
        before += (ids < expert).to(tl.int32)
        own += (ids == expert).to(tl.int32)
    start = tl.sum(before, axis=0)
    tl.store(starts_ptr + expert, start)
    if expert == tl.num_programs(0) - 1:
        tl.store(starts_ptr + expert + 1, start + tl.sum(own, axis=0))
    for begin in range(0, pairs, BLOCK):
        pair = begin + tl.arange(0, BLOCK)
        is_own = tl.load(ids_ptr + pair, mask=pair < pairs, other=-1) == expert
        position = start + tl.cumsum(is_own.to(tl.int32), axis=0) - 1
        tl.store(rows_ptr + position, (pair // SLOTS).to(tl.int64), mask=is_own)
        tl.store(positions_ptr + pair, position.to(tl.int64), mask=is_own)
        start += tl.sum(is_own.to(tl.int32), axis=0)


def route(logits: torch.Tensor, rule: RoutingRule, bias: torch.Tensor | None = None) -> Routing:
    """Choose and weigh the experts of each row by its logits [rows, experts], and sort the pairs.

    ``bias``: fp32 [experts], of the choice. The plan is int32 [experts + 1], where the pairs of each expert begin.
    """
    rows, experts = logits.shape
    slots, pairs, device = rule.slots, rows * rule.slots, logits.device
    routing = Routing(
        torch.empty((rows, slots), dtype=torch.int32, device=device),
        torch.empty((rows, slots), dtype=torch.float32, device=device),
        torch.empty(pairs, dtype=torch.int64, device=device),
        torch.empty((rows, slots), dtype=torch.int64, device=device),
        torch.empty(experts + 1, dtype=torch.int32, device=device),
    )
    _choose_kernel[(rows,)](
        logits, logits if bias is None else bias, routing.ids, routing.weights, rule.scale, rule.tolerance,
        EXPERTS=experts, SLOTS=slots, SIGMOID=rule.scoring == "sigmoid", SPARSE=rule.scoring == "sparsemixer",
        BIASED=bias is not None, RENORMALISE=rule.renormalise,
        BLOCK=triton.next_power_of_2(experts), SLOT_BLOCK=triton.next_power_of_2(slots), num_warps=1,
    )  # fmt: skip
    _sort_kernel[(experts,)](
        routing.ids, routing.rows, routing.positions, routing.plan, pairs, SLOTS=slots, BLOCK=_PAIRS
    )
    return routing


@triton.jit
def _weigh_kernel(
    x_ptr,  # [pairs, WIDTH] in, out
    weights_ptr,  # fp32 [rows, SLOTS]
    positions_ptr,  # int64 [rows, SLOTS]
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    at = tl.program_id(0).to(tl.int64)  # row * SLOTS + slot
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    offsets = tl.load(positions_ptr + at) * WIDTH + cols
    x = tl.load(x_ptr + offsets, mask=cols < WIDTH, other=0.0).to(tl.float32) * tl.load(weights_ptr + at)
    tl.store(x_ptr + offsets, x.to(x_ptr.dtype.element_ty), mask=cols < WIDTH)


def weigh(x: torch.Tensor, routing: Routing) -> Routing:
    """Multiply each pair of x [pairs, width] by its weight, in place. Returns the routing without weights."""
    pairs, width = x.shape
    _weigh_kernel[(pairs, triton.cdiv(width, _BLOCK))](x, routing.weights, routing.positions, WIDTH=width, BLOCK=_BLOCK)
    return replace(routing, weights=None)


@triton.jit
def _combine_kernel(
    y_ptr,  # [pairs, WIDTH]
    weights_ptr,  # fp32 [rows, SLOTS], read with WEIGHTED
    positions_ptr,  # int64 [rows, SLOTS]
    shared_ptr,  # [rows, WIDTH], read with SHARED
    gate_ptr,  # [rows], read with GATED
    out_ptr,  # [rows, WIDTH] out
    WIDTH: tl.constexpr,
    SLOTS: tl.constexpr,
    WEIGHTED: tl.constexpr,
    SHARED: tl.constexpr,
    GATED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = cols < WIDTH
    total = tl.zeros([BLOCK], tl.float32)
    for slot in tl.static_range(SLOTS):
        position = tl.load(positions_ptr + row * SLOTS + slot)
        y = tl.load(y_ptr + position * WIDTH + cols, mask=mask, other=0.0).to(tl.float32)
        if WEIGHTED:
            y *= tl.load(weights_ptr + row * SLOTS + slot)
        total += y
    if SHARED:
        shared = tl.load(shared_ptr + row * WIDTH + cols, mask=mask, other=0.0).to(tl.float32)
        if GATED:
            shared = shared / (1.0 + tl.exp(-tl.load(gate_ptr + row).to(tl.float32)))
        total += shared
    tl.store(out_ptr + row * WIDTH + cols, total.to(out_ptr.dtype.element_ty), mask=mask)


def combine(
    y: torch.Tensor, routing: Routing, shared: torch.Tensor | None = None, shared_gate: torch.Tensor | None = None
) -> torch.Tensor:
    """Each row's weighted sum of what its experts gave, y [pairs, width]: [rows, width] in its dtype."""
    rows, slots = routing.ids.shape
    width = y.shape[1]
    out = y.new_empty(rows, width)
    _combine_kernel[(rows, triton.cdiv(width, _BLOCK))](
        y, y if routing.weights is None else routing.weights, routing.positions, y if shared is None else shared,
        y if shared_gate is None else shared_gate, out,
        WIDTH=width, SLOTS=slots, WEIGHTED=routing.weights is not None, SHARED=shared is not None,
        GATED=shared_gate is not None, BLOCK=_BLOCK,
    )  # fmt: skip
    return out
