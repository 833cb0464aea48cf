"""The kernel interface: what a backend offers to the runtime, and the one place where a backend is chosen.

Two backends implement it, each one module with these functions: ``cpu`` (Numba) and ``triton``. Rows, pages and slots
are the only things known here; requests and models are not.

KV layout of both backends: K and V apart, per layer ``[pages, kv_heads, page_size, head_dim]``. Page 0 is the trash
page: padding rows write there and nothing reads it. The order of values inside one (page, head) box is the backend's.

Three dtypes: weights have ``storage_dtype``; the rows that enter a linear have one of ``row_dtypes``, as a rule the
weights' own; what leaves a linear, and the residual stream, has ``stream_dtype``. On the GPU all are the model's dtype.
On the CPU, sums stay in fp32 between the linears: it costs nothing there. Pages are like rows, or fp8 (e4m3).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Literal, Protocol, cast, runtime_checkable

import torch

from .block_weight import BlockSource
from .exchange import Exchange
from .low_rank import AdapterTable
from .routing import GroupedLinear, Routing, RoutingRule
from .sampling_batch import Sampled, SamplingBatch
from .step_batch import StepBatch

BackendName = Literal["cpu", "triton"]
PlainActivation = Literal["gelu", "gelu_tanh", "relu", "relu2"]  # of an MLP without a gate; gelu: with erf


class Unsupported(Exception):
    """A shape, dtype or device that a backend has no kernel for; the reason is for the user."""


@dataclass(frozen=True)
class QkNorm:
    """Norm of Q and K before the rotation: of every head, with weights [head_dim] that the heads share or
    [q_heads * head_dim] and [kv_heads * head_dim] of their own; or of all heads together, with weights of that width.
    """

    q_weight: torch.Tensor
    k_weight: torch.Tensor
    eps: float
    weight_offset: float = 0.0  # added to the weights; 1 for Gemma
    whole: bool = False  # of all heads together: RMSNorm
    kind: Literal["rms", "layer"] = "rms"  # layer: LayerNorm without a bias
    after: bool = False  # RMSNorm of each head once it is rotated


class Linear(Protocol):
    """A weight in the form that its backend reads fastest."""

    @property
    def nbytes(self) -> int:
        """What one use reads of it, scales included."""
        ...

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[rows, in] in the weight's dtype -> [rows, out] in the stream's; sums are fp32."""
        ...


GatedActivation = Literal["silu", "gelu_tanh"]


@runtime_checkable
class GatedLinear(Linear, Protocol):
    """A linear that may have the gate and up of an MLP, and their activation with them: a launch less."""

    def can_gate(self) -> bool:
        """Whether this one, by its shape."""
        ...

    def gated(self, x: torch.Tensor, activation: GatedActivation) -> torch.Tensor:
        """[rows, in] -> act(gate) * up, [rows, out / 2] in the dtype of ``x``; the gate comes first."""
        ...


@runtime_checkable
class QkvLinear(Linear, Protocol):
    """A linear of Q, K and V that may do what ``Backend.rope_and_write`` does without a QK-norm: a launch less."""

    def can_rotate(self, head_dim: int) -> bool:
        """Whether it does for heads of so many dims."""
        ...

    def rotated(
        self,
        x: torch.Tensor,  # [rows, in]
        cos_sin: torch.Tensor,  # these as there
        batch: StepBatch,
        k_pages: torch.Tensor,
        v_pages: torch.Tensor,
        k_scale: float = 1.0,
        v_scale: float = 1.0,
    ) -> torch.Tensor:
        """Write K and V; Q, [rows, q_heads, head_dim] in the dtype of ``x``."""
        ...


class BlockTable(Linear, Protocol):
    """A linear of block-quantised weights; a single one serves as an embedding, too."""


Embedding = torch.Tensor | BlockTable


class AttentionPlan(Protocol):
    """How a backend divides the attention work of one step; filled once a step, used by all layers of a window."""


class Backend(Protocol):
    """One implementation of every op. All tensors are contiguous."""

    records_any_size: bool  # one recording serves every row count; see ``capture``
    keeps_page_tables: bool  # a step may bring what has changed of them; else they are in the order of its sequences
    multiplies_int8_rows: bool  # with weights in blocks; see ``pack_blocks``

    def storage_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """What weights of a model of that dtype are kept in."""
        ...

    def row_dtypes(self, weight_dtype: torch.dtype) -> tuple[torch.dtype, ...]:
        """What rows may be kept in beside weights of that storage dtype."""
        ...

    def stream_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """What the residual stream of a model of that dtype is kept in."""
        ...

    def embed(self, table: Embedding, token_ids: torch.Tensor, scale: float, dtype: torch.dtype) -> torch.Tensor:
        """Rows of ``table`` [vocab, hidden] at ``token_ids`` (int64 [rows]), times ``scale``, in ``dtype``.

        A tensor as ``table`` may be read at int32, such as positions.
        """
        ...

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float, weight_offset: float = 0.0) -> torch.Tensor:
        """[rows, hidden] -> [rows, hidden] in the dtype of ``weight``, to which ``weight_offset`` is added."""
        ...

    def add_rms_norm(
        self,
        x: torch.Tensor,
        residual: torch.Tensor,
        weight: torch.Tensor,
        eps: float,
        weight_offset: float = 0.0,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Normalise ``x + residual``; ``residual`` becomes the sum.

        Returns ``out``, or a new one in the dtype of ``weight``.
        """
        ...

    def layer_norm(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, eps: float) -> torch.Tensor:
        """[rows, hidden] -> [rows, hidden] in the dtype of ``weight`` and ``bias``: mean 0 and variance 1 before."""
        ...

    def add_layer_norm(
        self,
        x: torch.Tensor,
        residual: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        eps: float,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """What ``add_rms_norm`` is to ``rms_norm``."""
        ...

    def add(self, x: torch.Tensor, residual: torch.Tensor) -> None:
        """``residual += x``, [rows, hidden] both, in the stream's dtype."""
        ...

    def cast(self, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Rows of the stream in another dtype; themselves where they have it."""
        ...

    def rope_and_write(
        self,
        qkv: torch.Tensor,  # [rows, (q_heads + 2 * kv_heads) * head_dim]
        cos_sin: torch.Tensor,  # fp32 [max_positions, head_dim]: cosines of the half dims, then sines
        batch: StepBatch,
        k_pages: torch.Tensor,  # [pages, kv_heads, page_size, head_dim], written
        v_pages: torch.Tensor,  # like k_pages
        qk_norm: QkNorm | None = None,
        k_scale: float = 1.0,  # fp8 pages hold K / k_scale
        v_scale: float = 1.0,
        dtype: torch.dtype | None = None,  # of Q, and so of what attention makes of it; None: the pages'
    ) -> torch.Tensor:
        """Normalise Q and K if asked to, rotate them (NeoX halves), write K and V to their slots.

        ``dtype`` must be given with fp8 pages. Returns Q, [rows, q_heads, head_dim].
        """
        ...

    def new_plan(
        self,
        rows: int,
        sequences: int,
        max_tokens: int,
        q_heads: int,
        kv_heads: int,
        head_dim: int,
        page_size: int,
        device: torch.device,
        window: int = 0,
    ) -> AttentionPlan:
        """Room for the plans of steps of up to so many rows and sequences of up to ``max_tokens`` tokens.

        ``window``: positions that a row sees, its own included; 0: all. Raises Unsupported.
        """
        ...

    def fill_plan(self, plan: AttentionPlan, batch: StepBatch) -> None:
        """Divide the work of a step, in place of the step before."""
        ...

    def paged_attention(
        self,
        q: torch.Tensor,  # [rows, q_heads, head_dim]
        k_pages: torch.Tensor,
        v_pages: torch.Tensor,
        batch: StepBatch,
        plan: AttentionPlan,
        scale: float,
        softcap: float = 0.0,  # s in s * tanh(logit / s); 0: none
        k_scale: float = 1.0,
        v_scale: float = 1.0,
        sinks: torch.Tensor | None = None,  # fp32 [q_heads], a logit of each head's softmax that has no value
    ) -> torch.Tensor:
        """Causal attention of each row over its sequence, in the plan's window. Returns [rows, q_heads * head_dim]."""
        ...

    def silu_and_mul(self, gate_up: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """[rows, 2 * width], gate first -> silu(gate) * up, [rows, width] in ``dtype``, that of the next linear."""
        ...

    def gelu_tanh_and_mul(self, gate_up: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """The same with the tanh approximation of GELU."""
        ...

    def clamped_silu_and_mul(
        self, gate_up: torch.Tensor, alpha: float, limit: float, dtype: torch.dtype
    ) -> torch.Tensor:
        """GPT-OSS's: gate * sigmoid(alpha * gate) * (up + 1), gate at most ``limit``, up within -limit and limit."""
        ...

    def act(self, x: torch.Tensor, kind: PlainActivation, dtype: torch.dtype) -> torch.Tensor:
        """act(x) without a gate, [rows, width] -> the same in ``dtype``, that of the next linear."""
        ...

    def xielu(
        self, x: torch.Tensor, positive: float, negative: float, beta: float, eps: float, dtype: torch.dtype
    ) -> torch.Tensor:
        """xIELU without a gate, as ``act``, for Apertus.

        positive * x^2 + beta * x; negative * (e^min(x, eps) - 1 - x) + beta * x where x <= 0.
        """
        ...

    def pack_linear(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> Linear:
        """Prepare a weight [out, in] (and bias [out]) for this backend. The weight may be dropped afterwards."""
        ...

    def logits(self, head: Linear, x: torch.Tensor) -> torch.Tensor:
        """What ``head`` makes of rows [rows, in], in fp32 whatever the stream's dtype: [rows, out]."""
        ...

    def quantize_linear(
        self, weight: torch.Tensor, bias: torch.Tensor | None = None, dtype: torch.dtype = torch.int8
    ) -> Linear:
        """Round a weight [out, in] to int8 or float8_e4m3fn, with one scale for each output."""
        ...

    def pack_quantized(self, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None = None) -> Linear:
        """Prepare a weight [out, in] that is int8 or float8_e4m3fn already, with its scales, fp32 [out]."""
        ...

    def pack_blocks(
        self, parts: Sequence[BlockSource], bias: torch.Tensor | None, dtype: torch.dtype, device: torch.device
    ) -> BlockTable:
        """Prepare block-quantised weights [out, in] that read the same rows of ``dtype``, one after another.

        Products are those of the described weights: nothing is rounded but sums in fp32.

        ``dtype`` int8, where ``multiplies_int8_rows``: rows of any dtype are rounded first, 32 values x of a row at a
        time, to scale * n: scale = max |x| / 127, n = x / scale to the nearest, ties to even; all below 2^-100 to
        0. Of those, products are as above. As an embedding it gives the weight's rows all the same.
        """
        ...

    def group_linears(self, members: Sequence[Linear]) -> GroupedLinear:
        """The experts' linears of one layer and part, of one shape and form; they may be dropped afterwards.

        Raises Unsupported, at the latest when it is called first.
        """
        ...

    def route(self, logits: torch.Tensor, rule: RoutingRule, bias: torch.Tensor | None = None) -> Routing:
        """Choose and weigh the experts of each row by its logits [rows, experts], in the stream's dtype.

        ``bias``: fp32 [experts], of the choice; not with sparsemixer.
        """
        ...

    def weigh(self, x: torch.Tensor, routing: Routing) -> Routing:
        """Multiply each pair of x [pairs, width], in the stream's dtype, by its weight, in place.

        Returns the routing without weights: what the experts make of ``x`` is to be summed as it is.
        """
        ...

    def combine(
        self,
        y: torch.Tensor,  # [pairs, width] in the stream's dtype
        routing: Routing,
        shared: torch.Tensor | None = None,  # [rows, width], of an expert that every row goes to, added last
        shared_gate: torch.Tensor | None = None,  # [rows, 1]: times its sigmoid
    ) -> torch.Tensor:
        """Each row's weighted sum of what its experts gave, in the order of its slots, [rows, width]; sums are fp32."""
        ...

    def new_adapters(
        self, inner: int, widths: Sequence[int], slots: int, dtype: torch.dtype, device: torch.device
    ) -> AdapterTable:
        """Room for the adapters of a linear whose parts have so many outputs each, for rows of ``dtype``."""
        ...

    def new_exchange(self, rank: int, size: int, memory: torch.Tensor | None) -> Exchange:
        """One rank's end of what ``size`` ranks exchange.

        ``memory``: uint8 zeros that their processes share; None for one rank alone. Raises Unsupported.
        """
        ...

    def take_rows(self, x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Rows of x [any, width] at ``rows`` (int64 [n]), [n, width]."""
        ...

    def soft_cap(self, x: torch.Tensor, cap: float) -> None:
        """``x = cap * tanh(x / cap)`` in place, fp32."""
        ...

    def scale(self, x: torch.Tensor, factor: float) -> None:
        """``x *= factor`` in place, fp32."""
        ...

    def sample(self, logits: torch.Tensor, batch: SamplingBatch, out: Sampled | None = None) -> Sampled:
        """Draw one token per row of fp32 logits [rows, vocab], which may be overwritten.

        ``out``: where to write it, with room for as many rows at least; the rest of it stays as it is.
        """
        ...

    def token_logprobs(self, logits: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
        """Natural log of each row's softmax at its token: fp32 [rows, vocab], int64 [rows] -> fp32 [rows]."""
        ...

    def take_tokens(self, token_ids: torch.Tensor, sources: torch.Tensor, sampled: torch.Tensor) -> None:
        """``token_ids[row] = sampled[sources[row]]`` where ``sources[row]`` is not negative; int64 all."""
        ...

    def count_tokens(self, counts: torch.Tensor, rows: torch.Tensor, token_ids: torch.Tensor) -> None:
        """``counts[rows[i], token_ids[i]] += 1`` where ``rows[i]`` is not negative.

        ``counts`` is int32 [any, vocab], ``rows`` int32 [n], ``token_ids`` int64 [n].
        """
        ...

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """All of ``source`` to ``target``, between host (pinned, where there is a GPU) and device, or within one."""
        ...

    def copy_boxes(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """``copy`` of uint8 [boxes, bytes] whose boxes lie apart: a box is contiguous, the tensor isn't.

        Never captured.
        """
        ...

    def numerics(self) -> str:
        """What of the machine and its libraries the bits of a result may depend on, beside this package's source."""
        ...

    def capture(self, function: Callable[[int], object], sizes: Sequence[int]) -> "Program":
        """Record the ops that ``function(rows)`` calls, so that a whole step costs the host one call.

        The ops must only read and write tensors that outlive the program. The cpu backend records once, for the
        largest size, and runs for any row count; the GPU records a graph for each size, and calls ``function`` where
        none is large enough. Rows beyond a step's own are computed for nothing, so they must be harmless.
        """
        ...

    def release_recordings(self) -> None:
        """Let go of the memory that programs which are gone had in common."""
        ...

    def Event(self) -> "Event":
        """The point that the launched work had reached when it was made."""
        ...


class Program(Protocol):
    """Ops that were recorded by ``Backend.capture``. Launches run one after the other; none waits for its end."""

    def launch(self, rows: int, sequences: int = 0) -> None:
        """Run them over the first ``rows`` rows and ``sequences`` sequences of the tensors that they know."""
        ...


class Event(Protocol):
    """A point in the order of launches."""

    def wait(self) -> None:
        """Sleep until everything launched before it is complete, and what it wrote can be read by the host."""
        ...


def load_backend(name: BackendName, exact: bool = True) -> Backend:
    """The backend of that name; importing it compiles nothing yet.

    ``exact``: a row of a linear does not depend on its batch. Without it a GPU's vendor has the linears in 16 bits,
    and picks an algorithm by the number of rows; on a CPU nothing would be faster, and nothing is other.
    """
    backend = import_module(f".{name}", __package__)
    if name == "triton" and not exact:
        backend = cast(ModuleType, SimpleNamespace(**vars(backend) | {"pack_linear": backend.pack_vendor_linear}))
    return cast(Backend, backend)
