"""Mixtures of experts on both backends: choices, weights and sums against torch, and each row against itself alone."""

from dataclasses import replace

import pytest
import torch

from headwater.kernels import Backend, Linear, Unsupported, load_backend
from headwater.kernels.cpu import capture
from headwater.kernels.quantize import round_weight
from headwater.kernels.routing import GroupedLinear, Routing, RoutingRule

from .test_triton_block_linear import random_weight

CPU, TRITON = "cpu", "triton"
BACKENDS = pytest.mark.parametrize("name", [CPU, TRITON])
BLOCKS = ("Q4_1", "GPTQ, 4 bits, ordered")
EXPERTS, ROWS, INNER = 6, 21, 64


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def all_pairs(routing: Routing, y: torch.Tensor) -> torch.Tensor:
    """What is sorted by expert as [rows, slots, width]."""
    return y[routing.positions.flatten()].view(*routing.ids.shape, -1)


@BACKENDS
@pytest.mark.parametrize(
    "rule",
    [
        RoutingRule(1),
        RoutingRule(3),
        RoutingRule(3, renormalise=True),
        RoutingRule(2, "sigmoid", scale=2.5),
        RoutingRule(EXPERTS, "sigmoid", renormalise=True),
    ],
    ids=str,
)
def test_rows_go_to_the_experts_with_the_largest_logits(name: str, rule: RoutingRule) -> None:
    logits = torch.randn(ROWS, EXPERTS) * 3
    logits[4, 2:5] = 9.0  # equals: the lowest first
    logits[5] = 0.0
    logits[6, 1], logits[6, 3] = torch.inf, -torch.inf
    routing = load_backend(name).route(logits, rule)
    ids = torch.sort(logits, descending=True, stable=True).indices[:, : rule.slots]
    assert torch.equal(routing.ids.long(), ids)
    values = logits.double().softmax(-1) if rule.scoring == "softmax" else logits.double().sigmoid()
    weights = values.gather(1, ids)
    if rule.renormalise:
        weights /= weights.sum(1, keepdim=True)
    finite = [row for row in range(ROWS) if row != 6]
    torch.testing.assert_close(routing.weights[finite], (weights * rule.scale).float()[finite], rtol=1e-6, atol=1e-6)
    by_expert = torch.sort(routing.ids.flatten(), stable=True).indices
    assert torch.equal(routing.rows, by_expert // rule.slots)
    assert torch.equal(routing.positions.flatten()[by_expert], torch.arange(ROWS * rule.slots))


@BACKENDS
@pytest.mark.parametrize("scoring", ["softmax", "sigmoid"])
def test_a_bias_counts_for_the_choice_alone(name: str, scoring: str) -> None:
    logits, bias = torch.randn(ROWS, EXPERTS) * 3, torch.randn(EXPERTS)
    logits[3, 1] = 90.0  # not chosen where its bias is low: weights are of all logits all the same
    bias[1] = -2.0
    routing = load_backend(name).route(logits, RoutingRule(2, scoring, renormalise=True, scale=2.5), bias)
    values = logits.double().softmax(-1) if scoring == "softmax" else logits.double().sigmoid()
    ids = (values + bias).topk(2).indices
    assert torch.equal(routing.ids.long(), ids)
    assert not torch.equal(ids, values.topk(2).indices)
    weights = values.gather(1, ids)
    rows = weights.sum(1) > 1e-30
    want = (2.5 * weights / weights.sum(1, keepdim=True)).float()
    torch.testing.assert_close(routing.weights[rows], want[rows], rtol=1e-5, atol=1e-6)


@BACKENDS
def test_what_enters_an_expert_may_be_weighed_in_place_of_what_it_gives(name: str) -> None:
    backend, width = load_backend(name), 70
    routing = backend.route(torch.randn(ROWS, EXPERTS), RoutingRule(2, "sigmoid"))
    x = torch.randn(2 * ROWS, width)
    want = all_pairs(routing, x) * routing.weights[..., None]
    weighed = backend.weigh(x, routing)
    torch.testing.assert_close(all_pairs(routing, x), want, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(backend.combine(x, weighed), want.sum(1), rtol=1e-6, atol=1e-6)


@BACKENDS
def test_sparsemixer_weighs_a_slots_expert_among_those_near_to_it(name: str) -> None:
    logits = torch.randn(ROWS, EXPERTS)
    routing = load_backend(name).route(logits, RoutingRule(2, "sparsemixer", tolerance=0.4))
    for row, ids, weights in zip(logits.double(), routing.ids.tolist(), routing.weights.tolist(), strict=True):
        for expert, weight in zip(ids, weights, strict=True):
            best = row.max()
            assert row[expert] == best
            near = row.where((best - row) / row.abs().clamp(min=best) <= 0.4, -torch.inf)
            assert weight == pytest.approx(near.softmax(0)[expert].item(), rel=1e-5)
            row[expert] = -torch.inf
    assert 0.05 < routing.weights[:, 0].min() < routing.weights[:, 0].max() == 1.0  # some alone, some not


@BACKENDS
def test_a_row_of_numbers_that_are_none_still_goes_somewhere(name: str) -> None:
    routing = load_backend(name).route(torch.full((2, EXPERTS), torch.nan), RoutingRule(3))
    for ids in routing.ids.tolist():
        assert len(set(ids)) == 3
        assert set(ids) <= set(range(EXPERTS))


@BACKENDS
def test_a_rows_experts_are_summed_and_the_shared_one_is_added(name: str) -> None:
    backend, width = load_backend(name), 70
    routing = backend.route(torch.randn(ROWS, EXPERTS), RoutingRule(2, renormalise=True))
    y, shared, gate = torch.randn(2 * ROWS, width), torch.randn(ROWS, width), torch.randn(ROWS, 1)
    want = (all_pairs(routing, y) * routing.weights[..., None]).double().sum(1)
    torch.testing.assert_close(backend.combine(y, routing).double(), want, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(backend.combine(y, routing, shared).double(), want + shared, rtol=1e-6, atol=1e-6)
    got = backend.combine(y, routing, shared, gate).double()
    torch.testing.assert_close(got, want + gate.double().sigmoid() * shared, rtol=1e-6, atol=1e-6)


OUT = 40


def make_member(backend: Backend, form: str, inner: int) -> tuple[Linear, torch.Tensor]:
    """A linear of that form with its weight and bias, [out, in + 1] in fp64."""
    weight, bias = torch.randn(OUT, inner), torch.randn(OUT)
    if form in ("int8", "fp8"):
        dtype = torch.int8 if form == "int8" else torch.float8_e4m3fn
        linear = backend.quantize_linear(weight, bias, dtype)
        rounded, scale = round_weight(weight, dtype)
        weight = rounded.float() * scale[:, None]
    elif form in ("fp32", "bf16"):
        weight = weight.to(torch.bfloat16 if form == "bf16" else torch.float32)
        linear = backend.pack_linear(weight, bias)
    else:
        blocks = random_weight(form.removesuffix(", ordered"), OUT, inner)
        if form.endswith("ordered"):
            blocks = replace(blocks, order=torch.randperm(inner))
        linear = backend.pack_blocks([blocks], bias, torch.float32, torch.device("cpu"))
        weight = blocks.dequantized()
    return linear, torch.cat([weight.double(), bias.double()[:, None]], 1)


def make_group(backend: Backend, form: str, inner: int) -> tuple[GroupedLinear, torch.Tensor]:
    members, weights = zip(*(make_member(backend, form, inner) for _ in range(EXPERTS)), strict=True)
    group = backend.group_linears(members)
    assert group.nbytes == sum(member.nbytes for member in members)
    return group, torch.stack(weights)


RULE = RoutingRule(2)


def products(backend: Backend, group: GroupedLinear, x: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Of each row with its experts, [rows, slots, out]."""
    routing = backend.route(logits, RULE)
    return all_pairs(routing, group(backend.take_rows(x, routing.rows), routing))


def check(
    backend: Backend, group: GroupedLinear, weights: torch.Tensor, x: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each pair's product is that of its expert's weight. Returns logits and products."""
    logits = torch.randn(len(x), EXPERTS)
    logits[:, 0] += 3.0  # many rows
    logits[:, 4] = -100.0  # none
    got = products(backend, group, x, logits)
    ids = backend.route(logits, RULE).ids.long()
    want = torch.einsum("ri,rsoi->rso", torch.cat([x.double(), torch.ones(len(x), 1)], 1), weights[ids])
    assert torch.linalg.norm(got.double() - want) <= 2e-6 * torch.linalg.norm(want)
    return logits, got


@pytest.mark.parametrize("form", ["fp32", "bf16", "int8", "fp8", *BLOCKS])
def test_each_pair_takes_its_experts_linear_on_the_cpu(form: str) -> None:
    backend, inner = load_backend(CPU), 512 if form in BLOCKS else INNER
    group, weights = make_group(backend, form, inner)
    dtypes = {"fp32": (torch.float32,), "bf16": (torch.float32, torch.bfloat16)}
    for dtype in dtypes.get(form, (torch.bfloat16,)):
        for rows in (1, 5, 90):  # 90: more than an item's for expert 0
            x = torch.randn(rows, inner).to(dtype)
            logits, y = check(backend, group, weights, x)
            for row in (0, rows - 1):
                alone = products(backend, group, x[row : row + 1].clone(), logits[row : row + 1].clone())
                assert torch.equal(alone[0], y[row]), "a row depends on its batch"


def test_experts_with_int8_rows_are_their_linears() -> None:
    backend, inner = load_backend(CPU), 512
    parts = [[random_weight("Q4_0", OUT, inner)] for _ in range(EXPERTS)]
    members = [backend.pack_blocks(part, None, torch.int8, torch.device("cpu")) for part in parts]
    x, logits = torch.randn(30, inner), torch.randn(30, EXPERTS)
    got = products(backend, backend.group_linears(members), x, logits)
    ids = backend.route(logits, RULE).ids.long()
    for expert, member in enumerate(members):
        rows, slots = (ids == expert).nonzero(as_tuple=True)
        assert torch.equal(got[rows, slots], member(x)[rows])


@pytest.mark.parametrize("form", ["fp32", "int8", "fp8", *BLOCKS])
def test_each_pair_takes_its_experts_linear_in_triton(form: str) -> None:
    backend, inner = load_backend(TRITON), 256 if form in BLOCKS else 200  # not whole tiles
    group, weights = make_group(backend, form, inner)
    for rows in (1, 40):  # 40: several tiles for expert 0
        x = torch.randn(rows, inner)
        logits, y = check(backend, group, weights, x)
        x[1:], logits[1:] = torch.randn(rows - 1, inner), torch.randn(rows - 1, EXPERTS)
        assert torch.equal(products(backend, group, x, logits)[0], y[0]), "a row depends on what others are"


@BACKENDS
def test_experts_of_different_forms_are_refused(name: str) -> None:
    backend = load_backend(name)
    members = [make_member(backend, form, INNER)[0] for form in ("fp32", "int8")]
    routing = backend.route(torch.randn(1, 2), RoutingRule(1))
    with pytest.raises(Unsupported, match="different forms"):
        backend.group_linears(members)(torch.randn(1, INNER), routing)


def test_a_captured_mixture_serves_any_number_of_rows() -> None:
    backend = load_backend(CPU)
    (up, _), (down, _) = make_group(backend, "fp32", INNER), make_group(backend, "fp32", OUT // 2)
    x, logits, out = torch.randn(12, INNER), torch.randn(12, EXPERTS), torch.zeros(12, OUT)

    def mixture(rows: int) -> torch.Tensor:
        routing = backend.route(logits[:rows], RoutingRule(3))
        y = up(backend.take_rows(x[:rows], routing.rows), routing)
        return backend.combine(down(backend.silu_and_mul(y, torch.float32), routing), routing)

    def step(rows: int) -> None:
        backend.copy(out[:rows], mixture(rows))

    program = capture(step, [12])
    for rows in (1, 12, 5):
        out.zero_()
        program.launch(rows)
        backend.Event().wait()
        assert torch.equal(out[:rows], mixture(rows))
