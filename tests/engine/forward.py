"""The logits of a whole prompt, straight from the model: what an engine never returns."""

from pathlib import Path

import torch

from headwater.engine.checkpoint.quantized import QuantizeName
from headwater.engine.config import KvCacheDtype
from headwater.engine.models.dtypes import choose_dtypes
from headwater.engine.models.families import read_config
from headwater.engine.models.kv_cache import KVCache
from headwater.engine.models.load import load_model
from headwater.kernels import BackendName, StepBatch, load_backend

PAGE_SIZE = 16


@torch.inference_mode()
def prompt_logits(
    directory: Path,
    prompt_ids: list[int],
    dtype: str = "float32",
    quantize: QuantizeName | None = None,
    kv_cache_dtype: KvCacheDtype = "auto",
    backend_name: BackendName = "cpu",
) -> torch.Tensor:
    """Load the model onto the CPU and run the prompt in one step. Returns fp32 [tokens, vocab]."""
    device, backend = torch.device("cpu"), load_backend(backend_name)
    config = read_config(directory)
    dtypes = choose_dtypes(backend, dtype, kv_cache=kv_cache_dtype)
    model = load_model(directory, config, backend, dtypes, device, config.max_positions, quantize)
    rows = len(prompt_ids)
    pages = -(-rows // PAGE_SIZE)
    cache = KVCache(config, pages + 1, PAGE_SIZE, dtypes.pages, device)
    batch = StepBatch(
        positions=torch.arange(rows, dtype=torch.int32),
        slots=torch.arange(rows) + PAGE_SIZE,
        query_start=torch.tensor([0, rows], dtype=torch.int32),
        kv_lengths=torch.tensor([rows], dtype=torch.int32),
        page_table=torch.arange(1, pages + 1, dtype=torch.int32)[None],
    )
    plans = {}
    for window in model.windows:
        plans[window] = backend.new_plan(
            rows, 1, rows, config.num_q_heads, config.num_kv_heads, config.head_dim, PAGE_SIZE, device, window
        )
        backend.fill_plan(plans[window], batch)
    hidden = torch.empty(rows, config.hidden_size, dtype=dtypes.rows)
    model.body(torch.tensor(prompt_ids), batch, plans, cache, hidden)
    return model.head(hidden, torch.arange(rows))
