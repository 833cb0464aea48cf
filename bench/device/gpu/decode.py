"""A decode step of an 8B-shaped model with random weights: as Python launches it, and as a CUDA graph.

From the kernels alone, over static buffers; runner.py has the engine's own.
"""

import statistics
from dataclasses import dataclass

import torch

from ....kernels import Linear
from ....kernels.sampling_batch import Sampled
from ....kernels.triton import (
    add_rms_norm,
    attention_plan,
    logits,
    pack_linear,
    paged_attention,
    rms_norm,
    rope_and_write,
    sample,
    silu_and_mul,
)
from .check_sampling import plain_batch, to_device
from .figures import HIDDEN, INTERMEDIATE, PAGE_SIZE, VOCAB
from .figures_attention import LLAMA, make_step
from .setup import Figure, Results, Setup, Skipped
from .timing import capture, events_s

LAYERS = 32
_RESERVE_BYTES = 4 << 30  # of memory, for all but weights and cache
STEPS = ((1, 1024), (8, 1024), (64, 1024), (64, 4096))  # (sequences, tokens of each)
QUICK_STEPS = ((1, 1024), (64, 1024))


@dataclass
class Layer:
    """Weights of one block."""

    input_norm: torch.Tensor
    qkv: Linear
    output: Linear
    post_norm: torch.Tensor
    gate_up: Linear
    down: Linear
    k_pages: torch.Tensor
    v_pages: torch.Tensor


class DecodeStep:
    """Llama's forward pass on the kernels, and the sampler, for a fixed batch of decoding sequences."""

    def __init__(self, setup: Setup, layers: int, pages: int) -> None:
        self._setup = setup
        qkv = (LLAMA.q_heads + 2 * LLAMA.kv_heads) * LLAMA.head_dim
        shape = (pages, LLAMA.kv_heads, PAGE_SIZE, LLAMA.head_dim)
        self.layers = [
            Layer(
                input_norm=self._normal(HIDDEN),
                qkv=pack_linear(self._normal(qkv, HIDDEN)),
                output=pack_linear(self._normal(HIDDEN, LLAMA.q_heads * LLAMA.head_dim)),
                post_norm=self._normal(HIDDEN),
                gate_up=pack_linear(self._normal(2 * INTERMEDIATE, HIDDEN)),
                down=pack_linear(self._normal(HIDDEN, INTERMEDIATE)),
                k_pages=torch.zeros(shape, dtype=setup.dtype, device=setup.device),
                v_pages=torch.zeros(shape, dtype=setup.dtype, device=setup.device),
            )
            for _ in range(layers)
        ]
        self.embedding, self.head = self._normal(VOCAB, HIDDEN), self._normal(VOCAB, HIDDEN)
        self._lm_head = pack_linear(self.head)
        self._norm = self._normal(HIDDEN)
        self._cos_sin = torch.randn(8192, LLAMA.head_dim, device=setup.device)

    def _normal(self, *shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=self._setup.dtype, device=self._setup.device).normal_(std=0.02)

    @property
    def weight_bytes(self) -> int:
        """Of what a step reads: every layer and the head."""
        layer = HIDDEN * (LLAMA.q_heads + 2 * LLAMA.kv_heads) * LLAMA.head_dim
        layer += LLAMA.q_heads * LLAMA.head_dim * HIDDEN + 3 * HIDDEN * INTERMEDIATE
        return (len(self.layers) * layer + VOCAB * HIDDEN) * self._setup.dtype.itemsize

    def prepare(self, sequences: int, tokens: int) -> None:
        """Fix the batch: equal sequences, each about to write its last token."""
        self._batch, self._plan = make_step(self._setup, LLAMA, sequences, 1, tokens, 1)
        last = self._batch.page_table[:, -1].long()
        self._batch.slots.copy_(last * PAGE_SIZE + (tokens - 1) % PAGE_SIZE)
        self._tokens = torch.arange(sequences, device=self._setup.device)
        batch = plain_batch(sequences, VOCAB)
        batch["top_p"][:] = 0.9
        self._sampling = to_device(batch, self._setup.device)

    def __call__(self) -> Sampled:
        batch = self._batch
        attention_plan.fill_plan(self._plan, batch)
        x = residual = self.embedding[self._tokens]
        for index, layer in enumerate(self.layers):
            if index == 0:
                normed = rms_norm(x, layer.input_norm, 1e-5)
            else:
                normed = add_rms_norm(x, residual, layer.input_norm, 1e-5)
            q = rope_and_write(layer.qkv(normed), self._cos_sin, batch, layer.k_pages, layer.v_pages)
            attended = paged_attention(q, layer.k_pages, layer.v_pages, batch, self._plan, LLAMA.head_dim**-0.5)
            normed = add_rms_norm(layer.output(attended), residual, layer.post_norm, 1e-5)
            x = layer.down(silu_and_mul(layer.gate_up(normed)))
        normed = add_rms_norm(x, residual, self._norm, 1e-5)
        return sample(logits(self._lm_head, normed), self._sampling)


def layers_that_fit(pages: int) -> int:
    """Of the model, in what memory is free. Raises Skipped."""
    free = torch.cuda.mem_get_info()[0] - _RESERVE_BYTES - 2 * 2 * VOCAB * HIDDEN
    layer = 2 * (HIDDEN * (2 * HIDDEN + 2 * LLAMA.kv_heads * LLAMA.head_dim) + 3 * HIDDEN * INTERMEDIATE)
    cache = 2 * 2 * pages * PAGE_SIZE * LLAMA.kv_heads * LLAMA.head_dim
    layers = min(LAYERS, free // (layer + cache))
    if layers < 1:
        raise Skipped("not enough free memory for one layer")
    return int(layers)


def figures_of_decode_step(setup: Setup) -> Results:
    """From the kernels alone. Bytes: weights and KV, each once."""
    steps = QUICK_STEPS if setup.quick else STEPS
    pages = 1 + max(sequences * -(-tokens // PAGE_SIZE) for sequences, tokens in steps)
    layers = layers_that_fit(pages)
    step = DecodeStep(setup, layers, pages)
    repeat = 5 if setup.quick else 15
    for sequences, tokens in steps:
        step.prepare(sequences, tokens)
        kv_bytes = layers * sequences * tokens * 2 * LLAMA.kv_heads * LLAMA.head_dim * setup.dtype.itemsize
        traffic = step.weight_bytes + kv_bytes
        name = f"decode step, {layers} layers, {sequences} x {tokens} tokens"
        step()
        torch.cuda.synchronize()
        yield Figure(f"{name}, launched by Python", statistics.median(events_s(step, repeat)), traffic)
        graph = capture(step)
        graph.replay()
        yield Figure(f"{name}, CUDA graph", statistics.median(events_s(graph.replay, repeat)), traffic)
        del graph
