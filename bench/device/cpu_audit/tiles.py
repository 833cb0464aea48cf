"""The tiles of one instruction set as functions of integers, compiled ahead of time for any processor that LLVM knows.

The set is the process's: ``instruction_sets.compile_for`` before this is imported.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from llvmlite import binding, ir
from numba import types
from numba.core.registry import cpu_target

from ....kernels.cpu.attention_tiles import _make_score_tile, _make_value_tile
from ....kernels.cpu.block_form import BlockForm
from ....kernels.cpu.block_record import widen_record
from ....kernels.cpu.block_tile import make_block_tile
from ....kernels.cpu.features import SET
from ....kernels.cpu.int8_tile import make_int8_tile, widen_to_bytes
from ....kernels.cpu.tile import make_tile

Q4_K = BlockForm(4, tuple(range(16)), 32, 8, "float16", True, False, True)
Q6_K = BlockForm(6, tuple(range(-32, 32)), 16, 8, "float16", True, False, False)
_NAMES: dict[types.Type, str] = {types.float32: "fp32", types.uint16: "bf16", types.int8: "int8", types.uint8: "fp8"}
_FORMS = {"Q4_K": Q4_K, "Q6_K": Q6_K}
SYMBOL = "tile"


class Tile(NamedTuple):
    """A tile, what selects its code, and how many integers it takes after that."""

    name: str
    intrinsic: Any
    selects: tuple[types.Type, ...]
    arguments: int


def tiles() -> Iterator[Tile]:
    """Those that carry the work: of linears, of weights in blocks, of attention."""
    wide, dots = SET.tiles.wide, SET.bf16_dot is not None
    rows_of_bf16 = types.uint16 if dots else types.float32  # widened once where nothing multiplies them
    kinds: list[tuple[types.Type, types.Type]] = [
        (rows_of_bf16, types.uint16),
        (rows_of_bf16, types.int8),
        (rows_of_bf16, types.uint8),
    ]
    for x, w in [*kinds, (types.float32, types.float32), *([(types.float32, types.uint16)] if dots else [])]:
        for rows, panels in ((8, 3), (1, 6), (1, 1)) if wide else ((4, 1), (1, 3), (1, 1)):
            name = f"{_NAMES[x]} x {_NAMES[w]} {rows}x{panels}"
            yield Tile(name, make_tile(rows, panels), (_array(x), _array(w)), 7)
    stored = types.uint16 if SET.dots_blocks else types.float32
    for rows, panels in ((8, 2), (1, 4)) if wide else ((4, 1), (1, 4)):
        yield Tile(f"scores {rows}x{panels}", _make_score_tile(rows, panels), (_array(types.uint16),), 7)
        yield Tile(f"values {rows}x{panels}", _make_value_tile(rows, panels), (_array(types.uint16),), 10)
    for name, form in _FORMS.items():
        for widened, shapes in enumerate(SET.tiles.blocks):
            yield from _block_tiles(name, form, shapes, bool(widened), stored)
        yield Tile(f"{name} widen", widen_record, (types.TypeRef(form),), 2)
        if form.takes_int8:
            for widened, shapes in enumerate(SET.tiles.int8):
                for panels, heights in shapes.items():
                    tile = make_int8_tile(heights[0], panels, bool(widened))
                    title = f"{name} int8 {heights[0]}x{panels}{' widened' if widened else ''}"
                    yield Tile(title, tile, (types.TypeRef(form),), 8)
            yield Tile(f"{name} widen to bytes", widen_to_bytes, (types.TypeRef(form),), 2)


def _block_tiles(
    name: str, form: BlockForm, shapes: Mapping[int, tuple[int, ...]], widened: bool, x: types.Type
) -> Iterator[Tile]:
    for panels, heights in shapes.items():
        tile = make_block_tile(heights[0], panels, widened)
        title = f"{name} {_NAMES[x]} {heights[0]}x{panels}{' widened' if widened else ''}"
        yield Tile(title, tile, (types.TypeRef(form), _array(x)), 10)


def _array(kind: types.Type) -> types.Type:
    return types.Array(kind, 1, "C")


def write(tile: Tile) -> ir.Module:
    """A module with the tile as ``void tile(int64, ...)``: its integers alone."""
    context = cpu_target.target_context
    signature, codegen = tile.intrinsic._defn(None, *tile.selects, *[types.intp] * tile.arguments)
    module = ir.Module(tile.name)
    integer = ir.IntType(64)
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [integer] * tile.arguments), SYMBOL)
    builder = ir.IRBuilder(function.append_basic_block())
    unread = [ir.Constant(ir.IntType(64), 0)] * len(tile.selects)  # they only select the code
    codegen(context, builder, signature, [*unread, *function.args])
    builder.ret_void()
    return module


class Machine:
    """LLVM for one processor."""

    def __init__(self, triple: str, cpu: str, features: str) -> None:
        binding.initialize_all_targets()
        binding.initialize_all_asmprinters()
        self._triple = triple
        self._machine = binding.Target.from_triple(triple).create_target_machine(cpu, features, opt=3, reloc="pic")
        self._machine.set_asm_verbosity(True)

    def compile(self, module: ir.Module) -> binding.ModuleRef:
        module.triple, module.data_layout = self._triple, str(self._machine.target_data)
        parsed = binding.parse_assembly(str(module))
        parsed.verify()
        builder = binding.create_pass_builder(self._machine, binding.create_pipeline_tuning_options(3))
        builder.getModulePassManager().run(parsed, builder)
        return parsed

    def assembly(self, module: ir.Module) -> str:
        return self._machine.emit_assembly(self.compile(module))

    def object(self, module: ir.Module) -> bytes:
        return self._machine.emit_object(self.compile(module))

    def address(self, module: ir.Module) -> int:
        """Of the tile, to be called here: the machine must be this one."""
        engine = binding.create_mcjit_compiler(self.compile(module), self._machine)
        engine.finalize_object()
        _KEPT.append(engine)
        return engine.get_function_address(SYMBOL)


_KEPT: list[binding.ExecutionEngine] = []  # what runs from them
