"""How block-quantised weights lie in memory: the form of a weight's records, as the tile (block_tile.py) reads them.

A panel of 16 outputs is a chain of records, each of some chunks of 32 values of k: a head with the scales of all its
groups, then the codes of each chunk in planes of 4, 2 or 1 bits. A plane's 16-bit words belong to (lane, k % 2), as the
bf16 pairs of tile.py do; each holds the bits of a few steps, pairs of k. A lane's two words are four bytes, and a shift
and a mask leave the codes of four k in them, as products of bytes want them (``place_of``). Codes of 8 bits lie in
order, both of a step side by side.
"""

from typing import NamedTuple

from numba import types

from .features import SET
from .llvm import LANES

CHUNK = 32  # values of k that share the words of a plane of one bit
# Of each width of codes, lowest bits first.
PLANES = {2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 8: (8,)}
BASE_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}  # of a scale


STEPS = CHUNK // 2  # of a chunk: pairs of k
QUADS = CHUNK // 4  # of a chunk: four k that a product of bytes sums


def place_of(step: int, width: int) -> tuple[int, int]:
    """Word and shift of a step's codes in a plane of that width.

    Steps 4 h + t and 4 h + 2 + t lie in the low and in the high bytes of the words, and are quad 2 h + t together: so
    those that follow each other are in one word, also of 4 bits.
    """
    quad, high = step // 4 * 2 + step % 2, step // 2 % 2
    return quad * width // 8, 8 * high + quad * width % 8


def order_of(bits: int) -> tuple[int, ...]:
    """Which k of the chunk comes first, second ... where four bytes of a lane are a quad."""
    if bits == 8:
        return tuple(range(CHUNK))
    return tuple(8 * (quad // 2) + 2 * (quad % 2) + k for quad in range(QUADS) for k in (0, 4, 1, 5))


class BlockForm(types.Type):
    """How the records of a weight look: compile-time arguments of the tile, as a type.

    Attributes:
        bits, table: of the codes; ``table`` has what each stands for, () of 8 bits: int8 values.
        group: values of k with one scale: 16, 32, ... up to a record's.
        chunks: of a record.
        base: torch's name of the dtype of scales (and minima): float16, bfloat16, float32.
        stepped: a record has one scale (and minimum) and its groups int8 multiples of it.
        zeros, minima: groups have a zero point, or a minimum.
    """

    def __init__(
        self,
        bits: int,
        table: tuple[int, ...],
        group: int,
        chunks: int,
        base: str,
        stepped: bool,
        zeros: bool,
        minima: bool,
    ) -> None:
        self.bits, self.table, self.group, self.chunks = bits, table, group, chunks
        self.base, self.stepped, self.zeros, self.minima = base, stepped, zeros, minima
        super().__init__(name=f"BlockForm({bits},{table},{group},{chunks},{base},{stepped},{zeros},{minima})")

    @property
    def unit(self) -> int:
        """Values of k whose products are summed before they are scaled."""
        return min(self.group, CHUNK)

    @property
    def groups(self) -> int:
        """Of a record."""
        return self.chunks * CHUNK // self.group

    @property
    def head(self) -> "Head":
        bases = 1 if self.stepped else self.groups
        return Head.of(
            scale=bases * LANES * BASE_BYTES[self.base],
            minimum=bases * LANES * BASE_BYTES[self.base] * self.minima,
            scale_steps=self.groups * LANES * self.stepped,
            minimum_steps=self.groups * LANES * (self.stepped and self.minima),
            zero=self.groups * LANES * 2 * self.zeros,
        )

    @property
    def chunk_bytes(self) -> int:
        return self.bits * CHUNK * LANES // 8

    @property
    def record_bytes(self) -> int:
        return self.head.size + self.chunks * self.chunk_bytes

    @property
    def units(self) -> int:
        """Of a record."""
        return self.chunks * CHUNK // self.unit

    @property
    def widened_scales(self) -> int:
        """A widened record is the codes in bf16, [chunks, 16, 16, 2], then scale and correction of each unit, fp32
        [units, 2, 16], the correction to be multiplied by a row's sum; this is where the latter begin, in bytes.
        """
        return self.chunks * CHUNK * LANES * 2

    @property
    def widened_bytes(self) -> int:
        return self.widened_scales + self.units * 2 * LANES * 4

    @property
    def is_codebook(self) -> bool:
        """Whether codes stand for values that don't follow from them."""
        return len(self.table) > 0 and self.table != tuple(range(self.table[0], self.table[0] + len(self.table)))

    @property
    def corrects(self) -> bool:
        """Whether the sums of the rows' values are needed."""
        return self.zeros or self.minima or self.start != 0

    @property
    def corrects_bytes(self) -> bool:
        """The same of rows that are int8: what codes begin with is added to whole numbers."""
        return self.zeros or self.minima

    @property
    def start(self) -> int:
        """What to add to a code where no table is looked up: to the sums, times that of the row's values."""
        return 0 if SET.word_lookup or not self.table or self.is_codebook else self.table[0]

    @property
    def takes_int8(self) -> bool:
        """Whether rows may be int8: their codes, or what they stand for, are bytes at hand."""
        return SET.byte_dot is not None and (self.bits == 4 or not self.is_codebook)

    @property
    def has_wide_bytes(self) -> bool:
        """Whether the unsigned bytes that products with int8 rows take have all 8 bits."""
        return self.bits == 8 or self.is_codebook

    @property
    def byte_start(self) -> int:
        """What to add to those bytes."""
        return -128 if self.has_wide_bytes else self.table[0]

    @property
    def in_place(self) -> bool:
        """Whether codes are multiplied where they lie in their words, and rows divided by their places: exact."""
        return not SET.word_lookup and not self.is_codebook and self.bits in PLANES[self.bits] and self.bits < 8

    def place(self, step: int) -> int:
        """What a code of that step along k is multiplied by."""
        return 1 << place_of(step, self.bits)[1] if self.in_place else 1


class Head(NamedTuple):
    """Where the parts of a record's head begin, in bytes, and its size, whole cache lines."""

    scale: int
    minimum: int
    scale_steps: int
    minimum_steps: int
    zero: int
    size: int

    @classmethod
    def of(cls, **sizes: int) -> "Head":
        """From the sizes of the parts."""
        starts, at = {}, 0
        for name in cls._fields[:-1]:
            starts[name] = at
            at += sizes[name]
        return cls(**starts, size=-(-at // 64) * 64)
