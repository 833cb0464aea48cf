"""Random weights packed as the formats are published, in plain integers: read back without loss, or refused by name."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from headwater.engine.checkpoint.errors import ModelError
from headwater.engine.checkpoint.packed_config import read_packed
from headwater.engine.checkpoint.packed_weights import packed_weight
from headwater.engine.checkpoint.safetensors_dir import open_checkpoint
from headwater.kernels.block_weight import BlockWeight

OUT, IN, NAME = 32, 96, "model.layers.0.mlp.up_proj"
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
Tensors = dict[str, torch.Tensor]


def words_of(codes: Sequence[int], bits: int, minus: int = 0) -> list[int]:
    """Codes, the first in the lowest bits of one long number -> its 32-bit words, less ``minus`` each, as signed."""
    number = sum(code << (i * bits) for i, code in enumerate(codes))
    words = [(number >> (32 * i)) - minus & 0xFFFFFFFF for i in range(-(-len(codes) * bits // 32))]
    return [word - (1 << 32) if word >> 31 else word for word in words]


def pack(rows: torch.Tensor, bits: int, minus: int = 0) -> torch.Tensor:
    return torch.tensor([words_of(row, bits, minus) for row in rows.tolist()], dtype=torch.int32)


class Case:
    """Random codes, zero points and scales, the groups of the inputs, and the weight that they are, in fp64."""

    def __init__(self, bits: int, group: int, shuffled: bool = False, symmetric: bool = False) -> None:
        torch.manual_seed(bits + group)
        self.bits, self.group = bits, IN if group == -1 else group
        groups = IN // self.group
        self.codes = torch.randint(2**bits, (OUT, IN))
        self.zeros = torch.randint(2**bits, (OUT, groups))  # with 0, which v1 of GPTQ can't tell from its neighbours
        if symmetric:
            self.zeros[:] = 2 ** (bits - 1)
        self.scales = torch.rand(OUT, groups).half()
        self.g_idx = torch.arange(IN) // self.group
        if shuffled:
            self.g_idx = self.g_idx[torch.randperm(IN)]
        self.weight = self.scales.double()[:, self.g_idx] * (self.codes - self.zeros[:, self.g_idx]).double()

    def gptq(self, version: int) -> Tensors:
        zeros, minus = self.zeros.t(), 0
        if version == 1 and self.bits == 3:
            zeros = (zeros - 1) % 8
        elif version == 1:
            minus = sum(1 << shift for shift in range(0, 32, self.bits))
        return {
            "qweight": pack(self.codes, self.bits).t(),
            "qzeros": pack(zeros, self.bits, minus),
            "scales": self.scales.t(),
            "g_idx": self.g_idx.int(),
        }

    def awq(self) -> Tensors:
        places = torch.tensor([8 * (i // 8) + AWQ_ORDER[i % 8] for i in range(OUT)])
        return {
            "qweight": pack(self.codes.t()[:, places], 4),
            "qzeros": pack(self.zeros.t()[:, places], 4),
            "scales": self.scales.t(),
        }

    def compressed(self) -> Tensors:
        return {
            "weight_packed": pack(self.codes, self.bits),
            "weight_scale": self.scales,
            "weight_zero_point": pack(self.zeros.t(), self.bits).t(),
            "weight_shape": torch.tensor([OUT, IN]),
            "weight_g_idx": self.g_idx.int(),
        }


def read(directory: Path, tensors: Tensors, quantization: dict[str, Any]) -> BlockWeight | None:
    stored = {f"{NAME}.{name}": tensor.contiguous() for name, tensor in tensors.items()}
    save_file(stored, directory / "model.safetensors")
    packed = read_packed(quantization)
    assert packed is not None
    return packed_weight(open_checkpoint(directory), packed, NAME, OUT, IN)


def check(weight: BlockWeight | None, case: Case) -> None:
    assert weight is not None
    assert (weight.bits, weight.group, weight.codes.dtype) == (case.bits, case.group, torch.uint8)
    assert torch.equal(weight.dequantized().double(), case.weight)
    assert (weight.order is None) == bool((case.g_idx.diff() >= 0).all())


def gptq(bits: int = 4, group: int = 32, **fields: object) -> dict[str, Any]:
    return {"quant_method": "gptq", "bits": bits, "group_size": group, "sym": False} | fields


def awq(**fields: object) -> dict[str, Any]:
    return {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True} | fields


def compressed(weights: dict[str, object], **fields: object) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int", "strategy": "group"} | weights}
    form = {"quant_method": "compressed-tensors", "format": "pack-quantized", "ignore": ["lm_head"]}
    return form | {"config_groups": {"group_0": group}} | fields


@pytest.mark.parametrize("group", [32, 96, -1])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_gptq(bits: int, version: int, group: int, tmp_path: Path) -> None:
    case = Case(bits, group)
    form = {"checkpoint_format": "gptq_v2"} if version == 2 else {}
    check(read(tmp_path, case.gptq(version), gptq(bits, group, **form)), case)


def test_gptq_with_inputs_in_another_order(tmp_path: Path) -> None:
    case = Case(4, 32, shuffled=True)
    check(read(tmp_path, case.gptq(1), gptq(desc_act=True)), case)


def test_a_symmetric_weight_has_one_zero_for_all(tmp_path: Path) -> None:
    case = Case(8, 32, symmetric=True)
    weight = read(tmp_path, case.gptq(1), gptq(8))
    check(weight, case)
    assert weight is not None
    assert weight.zero == 128


@pytest.mark.parametrize("group", [16, 32, -1])
def test_awq(group: int, tmp_path: Path) -> None:
    case = Case(4, group)
    check(read(tmp_path, case.awq(), awq(group_size=group)), case)


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_compressed_tensors_in_groups(bits: int, shuffled: bool, tmp_path: Path) -> None:
    case = Case(bits, 32, shuffled)
    config = compressed({"num_bits": bits, "group_size": 32, "symmetric": False, "actorder": "group"})
    check(read(tmp_path, case.compressed(), config), case)


@pytest.mark.parametrize("bits", [4, 8])
def test_compressed_tensors_with_a_scale_for_each_output(bits: int, tmp_path: Path) -> None:
    case = Case(bits, -1, symmetric=True)
    tensors = case.compressed()
    del tensors["weight_zero_point"], tensors["weight_g_idx"]
    tensors["weight_scale"] = tensors["weight_scale"][:, 0]  # dimensions of 1 may be missing
    check(read(tmp_path, tensors, compressed({"num_bits": bits, "strategy": "channel", "actorder": "static"})), case)


def test_each_module_has_the_bits_that_its_rule_says(tmp_path: Path) -> None:
    case = Case(8, -1)
    rules = {"-:.*attn": {}, r"+:.*\.mlp\.up_proj": {"bits": 8, "group_size": -1}, ".*": {"bits": 2}}
    check(read(tmp_path, case.gptq(2), gptq(checkpoint_format="gptq_v2", dynamic=rules)), case)
    groups = {
        "group_0": {"targets": ["Linear"], "weights": {"num_bits": 4, "strategy": "group", "group_size": 16}},
        "group_1": {"targets": [r"re:.*up_proj$"], "weights": {"strategy": "channel", "symmetric": False}},
    }
    check(read(tmp_path, case.compressed(), compressed({}, config_groups=groups)), case)


PLAIN = {
    "gptq": gptq(dynamic={"-:.*up_proj": {}}),
    "awq": awq(modules_to_not_convert=["mlp"]),
    "compressed-tensors": compressed({"group_size": 32}, ignore=["lm_head", "re:.*mlp.*"]),
    "no target": compressed({}, config_groups={"group_0": {"targets": ["re:.*attn"], "weights": {"group_size": 32}}}),
    "a plain weight all the same": gptq(),
}


@pytest.mark.parametrize("case", PLAIN)
def test_what_is_excluded_is_a_plain_weight(case: str, tmp_path: Path) -> None:
    assert read(tmp_path, {"weight": torch.zeros(OUT, IN)}, PLAIN[case]) is None


def test_an_excluded_module_that_is_packed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"up_proj.qweight is there, but config.json excludes it"):
        read(tmp_path, Case(4, 32).gptq(1), PLAIN["gptq"])


def replaced(name: str, tensor: torch.Tensor | None) -> Tensors:
    tensors = {**Case(4, 32, shuffled=True).gptq(1)}
    if tensor is None:
        del tensors[name]
    else:
        tensors[name] = tensor
    return tensors


DAMAGED = {
    "no codes": (replaced("qweight", None), "qweight is missing"),
    "no zeros": (replaced("qzeros", None), "qzeros is missing"),
    "no scales": (replaced("scales", None), "scales is missing"),
    "no groups": (replaced("g_idx", None), "g_idx is missing"),
    "half the codes": (replaced("qweight", torch.zeros(6, OUT, dtype=torch.int32)), r"qweight has shape \[6, 32\]"),
    "codes as floats": (replaced("qweight", torch.zeros(12, OUT)), "qweight is stored as F32"),
    "zeros of 8 bits": (replaced("qzeros", torch.zeros(3, 8, dtype=torch.int32)), r"qzeros has shape \[3, 8\]"),
    "a scale too few": (replaced("scales", torch.zeros(2, OUT)), r"scales has shape \[2, 32\]"),
    "a group too many": (replaced("g_idx", torch.arange(IN) // 24), "g_idx: groups 0 to 3, where 3 have a scale"),
    "a group below 0": (replaced("g_idx", torch.arange(IN) // 32 - 1), "g_idx: groups -1 to 1"),
    "unlike groups": (replaced("g_idx", torch.arange(IN) // 33), "g_idx: groups of 30 to 33 inputs"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_tensor_is_named(case: str, tmp_path: Path) -> None:
    tensors, message = DAMAGED[case]
    with pytest.raises(ModelError, match=message):
        read(tmp_path, tensors, gptq(desc_act=True))


def test_another_shape_than_the_model_asks_for_is_named(tmp_path: Path) -> None:
    tensors = Case(4, 32).compressed() | {"weight_shape": torch.tensor([OUT, IN - 1])}
    with pytest.raises(ModelError, match=r"weight_shape is \[32, 95\], config.json asks for \[32, 96\]"):
        read(tmp_path, tensors, compressed({"group_size": 32, "symmetric": False}))


def test_groups_that_do_not_divide_the_inputs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="up_proj: groups of 64 inputs don't divide 96"):
        read(tmp_path, Case(4, 32).awq(), awq(group_size=64))


REFUSED = {
    "gptq 5 bits": (gptq(5), "gptq weights in 5 bits are not supported .known: 2, 3, 4, 8"),
    "gptq 5 bits of a module": (gptq(dynamic={".*": {"bits": 5}}), "gptq weights in 5 bits"),
    "marlin": (gptq(checkpoint_format="marlin"), "format 'marlin' are not supported"),
    "old marlin": (gptq(is_marlin_format=True), "format 'marlin' are not supported"),
    "64-bit words": (gptq(pack_dtype="int64"), "packed in int64"),
    "rotated": (gptq(rotation="hadamard"), "rotation is not supported"),
    "another method inside": (gptq(dynamic={".*": {"method": "awq"}}), "have the method 'awq'"),
    "no pattern": (gptq(dynamic={"-:(": {}}), r"'\(' is no pattern of module names"),
    "no group": (gptq(group=0), "a group of 0 inputs"),
    "damaged": (gptq() | {"bits": "four"}, "quantization_config: Expected `int`"),
    "gemv": (awq(version="GEMV"), "awq weights of version 'gemv' are not supported .known: gemm"),
    "llm-awq": (awq(checkpoint_format="llm-awq"), "version 'llm-awq'"),
    "awq 8 bits": (awq(bits=8), "awq weights in 8 bits are not supported .known: 4"),
    "6 bits": (compressed({"num_bits": 6, "group_size": 32}), "compressed-tensors weights in 6 bits"),
    "floats": (compressed({"type": "float", "group_size": 32}), "packed float weights"),
    "tensor": (compressed({"strategy": "tensor"}), "strategy 'tensor' is not supported for packed"),
    "sparse": (compressed({"group_size": 32}, sparsity_config={"format": "sparse-24-bitmask"}), "sparse-24-bitmask"),
    "transformed": (
        compressed(
            {"group_size": 32},
            transform_config={"config_groups": {"R3": {"type": "hadamard", "apply": [{"location": "q_attn"}]}}},
        ),
        "transform of 'q_attn'",
    ),
    "mixed": (
        compressed(
            {},
            format="mixed-precision",
            config_groups={
                "a": {"targets": ["re:.*attn"], "format": "pack-quantized", "weights": {"group_size": 32}},
                "b": {"targets": ["re:.*mlp"], "format": "float-quantized", "weights": {"type": "float"}},
            },
        ),
        "format 'float-quantized' is not supported beside",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_known_is_refused_by_name(case: str) -> None:
    quantization, message = REFUSED[case]
    with pytest.raises(ModelError, match=message):
        read_packed(quantization)


def test_transforms_that_are_in_the_weights_and_other_methods_are_left_alone() -> None:
    transforms = {"config_groups": {"R1": {"type": "hadamard", "apply": [{"location": "weight_input"}]}}}
    assert read_packed(compressed({"group_size": 32}, transform_config=transforms)) is not None
    assert read_packed({"quant_method": "fp8"}) is None
    assert read_packed(compressed({"num_bits": 8, "strategy": "channel"}, format="int-quantized")) is None
