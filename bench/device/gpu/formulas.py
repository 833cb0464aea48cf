"""What the kernels compute, as formulas in float64: the GPU command and the tests hold every backend against them."""

import torch
import torch.nn.functional as F

from ....kernels import PlainActivation


def normalised(h: torch.Tensor, weight: torch.Tensor, eps: float, offset: float = 0.0) -> torch.Tensor:
    """RMSNorm of ``h`` over its last dim."""
    h = h.double()
    return h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + eps) * (weight.double() + offset)


def layer_normalised(h: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, eps: float) -> torch.Tensor:
    """LayerNorm of ``h`` over its last dim."""
    return F.layer_norm(h.double(), h.shape[-1:], weight.double(), None if bias is None else bias.double(), eps)


def activated(x: torch.Tensor, kind: PlainActivation) -> torch.Tensor:
    """The activation alone, in the shape of ``x``."""
    if kind == "relu":
        return F.relu(x.double())
    if kind == "relu2":
        return F.relu(x.double()).square()
    return F.gelu(x.double(), approximate="tanh" if kind == "gelu_tanh" else "none")


def bent(x: torch.Tensor, positive: float, negative: float, beta: float, eps: float) -> torch.Tensor:
    """xIELU, in the shape of ``x``."""
    x = x.double()
    below = torch.expm1(x.clamp(max=eps)) - x
    return torch.where(x > 0, positive * x * x, negative * below) + beta * x


def gated_silu(gate_up: torch.Tensor) -> torch.Tensor:
    """[rows, 2 * width] -> [rows, width]."""
    gate, up = gate_up.double().chunk(2, -1)
    return F.silu(gate) * up


def gated_gelu(gate_up: torch.Tensor) -> torch.Tensor:
    """[rows, 2 * width] -> [rows, width], GELU by tanh."""
    gate, up = gate_up.double().chunk(2, -1)
    return F.gelu(gate, approximate="tanh") * up


def gated_clamped(gate_up: torch.Tensor, alpha: float, limit: float) -> torch.Tensor:
    """[rows, 2 * width] -> [rows, width], GPT-OSS's form."""
    gate, up = gate_up.double().clamp(max=limit).chunk(2, -1)
    return gate * torch.sigmoid(alpha * gate) * (up.clamp(min=-limit) + 1)


def rotated(x: torch.Tensor, cos_sin: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """RoPE of [rows, heads, head_dim], NeoX halves; cos_sin [positions, head_dim] holds cosines, then sines."""
    cos, sin = cos_sin[positions.long()].double()[:, None].chunk(2, -1)
    x1, x2 = x.double().chunk(2, -1)
    return torch.cat([x1 * cos - x2 * sin, x2 * cos + x1 * sin], -1)


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    window: int = 0,
    softcap: float = 0.0,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """Causal attention of a sequence's last rows over all its tokens, scaled by head_dim**-0.5.

    q [rows, q_heads, head_dim]; k, v [tokens, kv_heads, head_dim]; sinks [q_heads], logits without a value
    -> [rows, q_heads * head_dim].
    """
    rows, length = len(q), len(k)
    group, head_dim = q.shape[1] // k.shape[1], q.shape[2]
    k, v = (x.double().repeat_interleave(group, 1) for x in (k, v))
    logits = torch.einsum("rhd,thd->hrt", q.double(), k) * head_dim**-0.5
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    position = torch.arange(length - rows, length, device=q.device)[:, None]
    other = torch.arange(length, device=q.device)[None, :]
    seen = other <= position
    if window:
        seen &= other > position - window
    logits = logits.masked_fill(~seen, -torch.inf)
    if sinks is not None:
        logits = torch.cat([sinks.double()[:, None, None].expand(-1, rows, 1), logits], -1)
    weights = logits.softmax(-1)[..., -length:]
    return torch.einsum("hrt,thd->rhd", weights, v).flatten(1)
