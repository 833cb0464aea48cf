"""Mixture of experts (Shazeer et al. 2017, arXiv 1701.06538): who a row goes to, and the sum of what they give.

A row's choice and its sum are computed by themselves, in the order of its slots: nothing of the batch enters.
"""

from dataclasses import replace

import numpy as np
import torch
from numba import njit, types

from ..routing import Routing, RoutingRule
from .activation import sigmoid
from .exp import exp
from .machine import array_at
from .op_graph import empty, run, struct_dtype, work_item

_ROWS = 4  # of a work item
_SOFTMAX, _SIGMOID, _SPARSE = range(3)
_NONE = np.empty(0, np.int32)
_SCORINGS = {"softmax": _SOFTMAX, "sigmoid": _SIGMOID, "sparsemixer": _SPARSE}
_ROUTE = struct_dtype(
    logits=int, bias=int, scores=int, ids=int, weights=int, experts=int, slots=int, renormalise=int, scale=float,
    tolerance=float,
)  # fmt: skip
_WEIGH = struct_dtype(x=int, weights=int, positions=int, slots=int, width=int)
_SORT = struct_dtype(ids=int, rows=int, positions=int, plan=int, experts=int, slots=int)
_COMBINE = struct_dtype(y=int, weights=int, positions=int, shared=int, gate=int, out=int, slots=int, width=int)


@njit(error_model="numpy")
def _largest(logits, taken):
    """The first of the largest that are not taken; of what is not a number the first that is left."""
    best = -1
    for expert in range(logits.shape[0]):
        is_taken = False
        for i in range(taken.shape[0]):
            is_taken = is_taken or taken[i] == expert
        if not is_taken and (best < 0 or logits[expert] > logits[best]):
            best = expert
    return best


@njit(error_model="numpy")
def _sparse(logits, ids, slot, tolerance):
    """The weight of a slot's expert among those near to it that no slot before has."""
    best, total = logits[ids[slot]], np.float32(0.0)
    for expert in range(logits.shape[0]):
        is_left = (best - logits[expert]) / max(abs(logits[expert]), best) <= tolerance
        for i in range(slot):
            is_left = is_left and ids[i] != expert
        if is_left:
            total += exp(logits[expert] - best)
    return np.float32(1.0) / total


@njit(error_model="numpy")
def _softmax_terms(logits):
    """The largest logit and the sum of exponentials below it."""
    most, total = logits[_largest(logits, _NONE)], np.float32(0.0)
    for expert in range(logits.shape[0]):
        total += exp(logits[expert] - most)
    return most, total


@njit(error_model="numpy")
def _score(logits, bias, scores, scoring):
    """What experts are chosen by where there is a bias: their weights and it."""
    most, total = _softmax_terms(logits)
    for expert in range(logits.shape[0]):
        weight = sigmoid(logits[expert]) if scoring == _SIGMOID else exp(logits[expert] - most) / total
        scores[expert] = weight + bias[expert]


@njit(error_model="numpy")
def _weigh(logits, ids, weights, scoring, renormalise, scale, tolerance):
    total = np.float32(0.0)
    if scoring == _SPARSE:
        for slot in range(ids.shape[0]):
            weights[slot] = _sparse(logits, ids, slot, tolerance)
    elif scoring == _SIGMOID:
        for slot in range(ids.shape[0]):
            weights[slot] = sigmoid(logits[ids[slot]])
    else:
        most, total = _softmax_terms(logits)
        for slot in range(ids.shape[0]):
            weights[slot] = exp(logits[ids[slot]] - most) / total
    if renormalise:
        total = np.float32(0.0)
        for slot in range(ids.shape[0]):
            total += weights[slot]
        for slot in range(ids.shape[0]):
            weights[slot] /= total
    for slot in range(ids.shape[0]):
        weights[slot] *= scale


@work_item
def _choose(scoring):
    def kernel(arguments, item, thread, rows, sequences):
        a = array_at(arguments, 1, _ROUTE)[0]
        for row in range(item * _ROWS, min(item * _ROWS + _ROWS, rows)):
            logits = array_at(a.logits, (rows, a.experts), types.float32)[row]
            ids = array_at(a.ids, (rows, a.slots), types.int32)[row]
            weights = array_at(a.weights, (rows, a.slots), types.float32)[row]
            scores = logits
            if a.bias:
                scores = array_at(a.scores, (rows, a.experts), types.float32)[row]
                _score(logits, array_at(a.bias, a.experts, types.float32), scores, scoring)
            for slot in range(a.slots):
                ids[slot] = _largest(scores, ids[:slot])
            _weigh(logits, ids, weights, scoring, a.renormalise != 0, a.scale, a.tolerance)

    return kernel


@work_item
def _sort():
    """Pairs by expert, and within an expert by row; the experts that have any, and where theirs begin."""

    def kernel(arguments, item, thread, rows, sequences):
        a = array_at(arguments, 1, _SORT)[0]
        pairs = rows * a.slots
        ids, positions = array_at(a.ids, pairs, types.int32), array_at(a.positions, pairs, types.int64)
        of_pair = array_at(a.rows, pairs, types.int64)
        plan = array_at(a.plan, 3 * a.experts + 2, types.int64)
        chosen, starts, next_ = plan[1 : a.experts + 1], plan[a.experts + 1 :], plan[2 * a.experts + 2 :]
        next_[:] = 0
        for pair in range(pairs):
            next_[ids[pair]] += 1
        active, start = 0, 0
        for expert in range(a.experts):
            count = next_[expert]
            next_[expert] = start
            if count > 0:
                chosen[active], starts[active] = expert, start
                active += 1
                start += count
        plan[0], starts[active] = active, start
        for pair in range(pairs):
            position = next_[ids[pair]]
            next_[ids[pair]] += 1
            positions[pair], of_pair[position] = position, pair // a.slots

    return kernel


def route(logits: torch.Tensor, rule: RoutingRule, bias: torch.Tensor | None = None) -> Routing:
    """Choose and weigh the experts of each row by its logits, fp32 [rows, experts], and sort the pairs.

    ``bias``: fp32 [experts], of the choice.
    """
    rows, experts = logits.shape
    slots = rule.slots
    routing = Routing(
        empty((rows, slots), torch.int32), empty((rows, slots)), empty((rows * slots,), torch.int64),
        empty((rows, slots), torch.int64), empty((3 * experts + 2,), torch.int64),
    )  # fmt: skip
    arguments = {
        "logits": logits, "bias": bias, "scores": None if bias is None else empty((rows, experts)),
        "ids": routing.ids, "weights": routing.weights, "experts": experts, "slots": slots,
        "renormalise": int(rule.renormalise), "scale": rule.scale, "tolerance": rule.tolerance,
    }  # fmt: skip
    run(_choose(_SCORINGS[rule.scoring]), _ROUTE, arguments, rows, per_rows=_ROWS)
    arguments = {
        "ids": routing.ids, "rows": routing.rows, "positions": routing.positions, "plan": routing.plan,
        "experts": experts, "slots": slots,
    }  # fmt: skip
    run(_sort(), _SORT, arguments, rows, fixed=1)
    return routing


@njit(fastmath={"contract"}, error_model="numpy")
def _add_scaled(out, y, weight):
    for i in range(out.shape[0]):
        out[i] += weight * y[i]


@work_item
def _weigh_pairs():
    def kernel(arguments, item, thread, rows, sequences):
        a = array_at(arguments, 1, _WEIGH)[0]
        x = array_at(a.x, (rows * a.slots, a.width), types.float32)
        weights = array_at(a.weights, (rows, a.slots), types.float32)
        positions = array_at(a.positions, (rows, a.slots), types.int64)
        for row in range(item * _ROWS, min(item * _ROWS + _ROWS, rows)):
            for slot in range(a.slots):
                pair = x[positions[row, slot]]
                for i in range(a.width):
                    pair[i] *= weights[row, slot]

    return kernel


def weigh(x: torch.Tensor, routing: Routing) -> Routing:
    """Multiply each pair of x, fp32 [pairs, width], by its weight, in place. Returns the routing without weights."""
    rows, slots = routing.ids.shape
    arguments = {
        "x": x, "weights": routing.weights, "positions": routing.positions, "slots": slots, "width": x.shape[1],
    }  # fmt: skip
    run(_weigh_pairs(), _WEIGH, arguments, rows, per_rows=_ROWS)
    return replace(routing, weights=None)


@work_item
def _combine():
    def kernel(arguments, item, thread, rows, sequences):
        a = array_at(arguments, 1, _COMBINE)[0]
        y = array_at(a.y, (rows * a.slots, a.width), types.float32)
        positions = array_at(a.positions, (rows, a.slots), types.int64)
        out = array_at(a.out, (rows, a.width), types.float32)
        for row in range(item * _ROWS, min(item * _ROWS + _ROWS, rows)):
            out[row, :] = np.float32(0.0)
            for slot in range(a.slots):
                weight = np.float32(1.0)
                if a.weights:
                    weight = array_at(a.weights, (rows, a.slots), types.float32)[row, slot]
                _add_scaled(out[row], y[positions[row, slot]], weight)
            if a.shared:
                gate = np.float32(1.0)
                if a.gate:
                    gate = sigmoid(array_at(a.gate, rows, types.float32)[row])
                _add_scaled(out[row], array_at(a.shared, (rows, a.width), types.float32)[row], gate)

    return kernel


def combine(
    y: torch.Tensor, routing: Routing, shared: torch.Tensor | None = None, shared_gate: torch.Tensor | None = None
) -> torch.Tensor:
    """Each row's weighted sum of what its experts gave, y [pairs, width] fp32: [rows, width] fp32."""
    rows, slots = routing.ids.shape
    out = empty((rows, y.shape[1]))
    arguments = {
        "y": y, "weights": routing.weights, "positions": routing.positions, "shared": shared, "gate": shared_gate,
        "out": out, "slots": slots, "width": y.shape[1],
    }  # fmt: skip
    run(_combine(), _COMBINE, arguments, rows, per_rows=_ROWS)
    return out
