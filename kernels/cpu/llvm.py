"""What the IR of the CPU kernels is written with: types, vectors of 16 lanes, and loops."""

from llvmlite import binding, ir

# Numba links the IR of a function into its callers after machine code was made of it. On the way to that, LLVM writes
# addresses that are sums of numbers as offsets from null, which no later pass may see: a load from there counts as
# impossible, and all that leads to it is left out. So it must write them as sums.
binding.set_option("", "-addr-sink-using-gep=false")

LANES = 16  # outputs of a panel: one 512-bit register of fp32 sums

I64, I32, I16, I8 = ir.IntType(64), ir.IntType(32), ir.IntType(16), ir.IntType(8)
F32, F16 = ir.FloatType(), ir.HalfType()
SUMS = ir.VectorType(F32, LANES)
WORDS = ir.VectorType(I32, LANES)
SHORTS = ir.VectorType(I16, 2 * LANES)


class BFloat(ir.Type):
    """LLVM's bfloat, which llvmlite has no name for."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BFloat)

    def __hash__(self) -> int:
        return hash("bfloat")


PAIRS = ir.VectorType(BFloat(), 2 * LANES)


def number(value: int) -> ir.Constant:
    """A constant address, offset or count."""
    return ir.Constant(I64, value)


def declare(module, name, result, arguments):
    return module.globals.get(name) or ir.Function(module, ir.FunctionType(result, arguments), name)


def splat(builder, scalar, vector_type=SUMS):
    undefined = ir.Constant(vector_type, ir.Undefined)
    vector = builder.insert_element(undefined, scalar, ir.Constant(I32, 0))
    return builder.shuffle_vector(vector, undefined, ir.Constant(WORDS, [0] * LANES))


def fma(builder, a, b, c):
    """a * b + c, rounded once."""
    return builder.call(declare(builder.module, f"llvm.fma.v{LANES}f32", SUMS, [SUMS] * 3), [a, b, c])


def load(builder, pointer, align):
    load = builder.load(pointer)
    load.align = align
    return load


def prefetch(builder, address):
    pointer = I8.as_pointer()
    function = declare(builder.module, "llvm.prefetch.p0", ir.VoidType(), [pointer, I32, I32, I32])
    # To read, into the second-level cache, data.
    builder.call(function, [builder.inttoptr(address, pointer), *(ir.Constant(I32, value) for value in (0, 2, 1))])


class Loop:
    """``for index in range(count)``, at least once; what is built until ``close`` is its body."""

    def __init__(self, builder, count, name: str) -> None:
        self._builder, self._count = builder, count
        self._body = builder.append_basic_block(name)
        self._end = builder.append_basic_block(f"{name}_end")
        entry = builder.block
        builder.branch(self._body)
        builder.position_at_end(self._body)
        self.index = builder.phi(I64)
        self.index.add_incoming(number(0), entry)

    def close(self) -> None:
        builder = self._builder
        following = builder.add(self.index, number(1))
        self.index.add_incoming(following, builder.block)
        builder.cbranch(builder.icmp_signed("<", following, self._count), self._body, self._end)
        builder.position_at_end(self._end)
