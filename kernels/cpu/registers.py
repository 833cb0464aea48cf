"""Vectors of 16 lanes through instructions that take less at a time, as LLVM IR."""

from collections.abc import Callable

from llvmlite import ir

from .llvm import I32


def parts_of(builder, vector, count: int) -> list[ir.Value]:
    """``vector`` in so many equal parts."""
    if count == 1:
        return [vector]
    kind, size = vector.type, vector.type.count // count
    undefined = ir.Constant(kind, ir.Undefined)
    return [
        builder.shuffle_vector(vector, undefined, ir.Constant(ir.VectorType(I32, size), list(range(at, at + size))))
        for at in range(0, kind.count, size)
    ]


def joined(builder, parts: list[ir.Value]) -> ir.Value:
    """Parts, 1, 2, 4 ..., one after another."""
    while len(parts) > 1:
        mask = ir.Constant(ir.VectorType(I32, 2 * parts[0].type.count), list(range(2 * parts[0].type.count)))
        parts = [builder.shuffle_vector(low, high, mask) for low, high in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def by_parts(builder, count: int, function: Callable[..., ir.Value], *vectors: ir.Value) -> ir.Value:
    """What ``function`` makes of each part of the vectors, joined."""
    return joined(
        builder, [function(*each) for each in zip(*(parts_of(builder, v, count) for v in vectors), strict=True)]
    )
