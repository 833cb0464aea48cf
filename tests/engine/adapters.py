"""Adapters that PEFT writes, for a model of transformers: random ones, so that every update shows in the tokens."""

from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel


def save_adapter(model: PreTrainedModel, directory: Path, seed: int, **settings: object) -> Path:
    """Write a LoRA of all projections (or as ``settings`` say) with random matrices; the model is left as it was."""
    wanted: dict[str, object] = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear", **settings}
    peft_model = get_peft_model(model, LoraConfig(**wanted))
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in peft_model.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(0.0, parameter.shape[1] ** -0.5, generator=generator)
    peft_model.save_pretrained(directory)
    peft_model.unload()
    return directory


@torch.inference_mode()
def peft_tokens(model: PreTrainedModel, directory: Path, prompt: list[int], count: int) -> list[int]:
    """Greedy tokens of the model with an adapter, as PEFT reads it back."""
    peft_model = PeftModel.from_pretrained(model, str(directory)).eval()
    ids = peft_model.generate(
        input_ids=torch.tensor([prompt]), max_new_tokens=count, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    peft_model.unload()
    return ids[0, len(prompt) :].tolist()
