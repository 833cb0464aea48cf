"""The softmax of attention over one segment of positions: a row's scores in, its share of the sums out."""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from .exp import LOG2_E, exp2, exp2_lanes
from .llvm import I64, LANES, SUMS, declare, load
from .tile_products import rounded_to_bf16

_I32 = ir.IntType(32)
_WORDS, _HALVES = ir.VectorType(_I32, LANES), ir.VectorType(ir.IntType(16), LANES)
_LOWEST = np.float32(-np.inf)


@njit(inline="always", fastmath={"contract"})
def cap(scores, cap_scale, softcap):
    """softcap * tanh(score * cap_scale); tanh x = 1 - 2 / (e^2x + 1)."""
    for i in range(scores.shape[0]):
        x = min(max(scores[i] * cap_scale, np.float32(-20.0)), np.float32(20.0))
        scores[i] = softcap * (np.float32(1.0) - np.float32(2.0) / (exp2(x * (LOG2_E + LOG2_E)) + np.float32(1.0)))


def _over_panels(builder, panels, state, step):
    """state = step(panel, state) for each of ``panels`` > 0."""
    entry, body, end = builder.block, builder.append_basic_block("panel"), builder.append_basic_block("panel_end")
    builder.branch(body)
    builder.position_at_end(body)
    panel, carried = builder.phi(I64), builder.phi(SUMS)
    panel.add_incoming(ir.Constant(I64, 0), entry)
    carried.add_incoming(state, entry)
    new = step(panel, carried)
    following = builder.add(panel, ir.Constant(I64, 1))
    panel.add_incoming(following, body)
    carried.add_incoming(new, body)
    builder.cbranch(builder.icmp_signed("<", following, panels), body, end)
    builder.position_at_end(end)
    return new


def _across_lanes(builder, vector, combine):
    """All lanes combined: halves with each other, until one is left."""
    width = LANES // 2
    while width:
        order = ir.Constant(_WORDS, [(lane + width) % LANES for lane in range(LANES)])
        vector = combine(vector, builder.shuffle_vector(vector, vector, order))
        width //= 2
    return builder.extract_element(vector, ir.Constant(_I32, 0))


def _splat(builder, scalar):
    vector = builder.insert_element(ir.Constant(SUMS, ir.Undefined), scalar, ir.Constant(_I32, 0))
    return builder.shuffle_vector(vector, vector, ir.Constant(_WORDS, [0] * LANES))


def _vectors(builder, address):
    return builder.inttoptr(address, SUMS.as_pointer())


def _larger(builder, a, b):
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


@intrinsic
def _maximum(_context, scores, panels):
    """The largest of panels x 16 scores at an address."""

    def codegen(_context, builder, _signature, arguments):
        scores = _vectors(builder, arguments[0])

        def step(panel, largest):
            return _larger(builder, load(builder, builder.gep(scores, [panel]), 4), largest)

        lowest = ir.Constant(SUMS, [float("-inf")] * LANES)
        largest = _over_panels(builder, arguments[1], lowest, step)
        return _across_lanes(builder, largest, lambda a, b: _larger(builder, a, b))

    return types.float32(types.intp, types.intp), codegen


@intrinsic
def _exponentials(_context, like, scores, probabilities, panels, scale, shift):
    """exp2(score * scale - shift) of panels x 16 scores, stored as ``like``'s type. Returns their sum.

    16 partial sums in order of the panels, then added: the order depends on nothing but the positions.
    """

    def codegen(_context, builder, _signature, arguments):
        _, scores, probabilities, panels, scale, shift = arguments
        scores, fma = _vectors(builder, scores), declare(builder.module, f"llvm.fma.v{LANES}f32", SUMS, [SUMS] * 3)
        stored = _HALVES if like.dtype == types.uint16 else SUMS
        target = builder.inttoptr(probabilities, stored.as_pointer())
        scales, shifts = _splat(builder, scale), _splat(builder, builder.fneg(shift))

        def step(panel, sums):
            value = load(builder, builder.gep(scores, [panel]), 4)
            value = exp2_lanes(builder, builder.call(fma, [value, scales, shifts]))
            rounded = rounded_to_bf16(builder, value) if stored is _HALVES else value
            builder.store(rounded, builder.gep(target, [panel])).align = 4
            return builder.fadd(sums, value)

        sums = _over_panels(builder, panels, ir.Constant(SUMS, [0.0] * LANES), step)
        return _across_lanes(builder, sums, builder.fadd)

    return types.float32(like, *[types.intp] * 3, types.float32, types.float32), codegen


@njit
def softmax_row(like, scores, probabilities, first, last, scale_log2):
    """exp2(score * scale_log2 - largest) of positions first .. last into ``probabilities``, zeros elsewhere.

    Args:
        like: array of the type that probabilities are stored as.
        scores: fp32 [positions], a multiple of LANES of them; overwritten.
        probabilities: their address.

    Returns:
        The largest exponent, -inf if no position is shown, and the sum.
    """
    scores[:first] = _LOWEST
    scores[last:] = _LOWEST
    panels = scores.shape[0] // LANES
    if last <= first:
        _exponentials(like, scores.ctypes.data, probabilities, panels, np.float32(1.0), np.float32(0.0))
        return _LOWEST, np.float32(0.0)
    shift = _maximum(scores.ctypes.data, panels) * scale_log2
    return shift, _exponentials(like, scores.ctypes.data, probabilities, panels, scale_log2, shift)
