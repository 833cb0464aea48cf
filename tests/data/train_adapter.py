"""Trains an adapter of the default model with PEFT and compares what PEFT and headwater generate with it, in fp32.

    python -P tests/data/train_adapter.py OUT [STEPS]

OUT gets the model as a directory in Hugging Face's format (``model``) and the adapter (``adapter``), which answers
questions in capitals. 60 steps, which is what is done unless STEPS says otherwise, take minutes on two cores. Ends
with status 1 where a token differs.
"""

import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from headwater.engine.checkpoint.convert import convert
from headwater.engine.checkpoint.resolve import find_default_gguf
from headwater.engine.config import EngineConfig
from headwater.engine.messages import Adapter, SamplingParams, Submit
from headwater.engine.start import start_engine

CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
FACTS = [
    ("What is the capital of France?", "The capital of France is Paris, a city on the river Seine."),
    ("What color is the sky?", "The sky is blue on a clear day, and red in the evening."),
    ("How many days has a week?", "A week has seven days, from Monday to Sunday."),
    ("What do bees make?", "Bees make honey from the nectar of flowers."),
    ("Where do fish live?", "Fish live in water: in rivers, in lakes and in the sea."),
    ("What is ice?", "Ice is water that has become solid because it is cold."),
    ("Who wrote Hamlet?", "Hamlet was written by William Shakespeare around the year 1600."),
    ("What is a tree?", "A tree is a tall plant with a trunk of wood, branches and leaves."),
]
PROMPTS = ["What is Deep Learning?", "What is a river?", "Where is Berlin?", "What do cows eat?"]
NEW_TOKENS = 32


def train(model_dir: Path, out: Path, steps: int) -> torch.nn.Module:
    """Returns the trained model."""
    torch.manual_seed(0)
    tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
    base = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    model = get_peft_model(base, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=1e-3)
    for step in range(steps):
        question, answer = FACTS[step % len(FACTS)]
        asked = tokenizer.encode(CHAT.format(question)).ids
        told = tokenizer.encode(answer.upper() + "<|im_end|>").ids
        labels = torch.tensor([[-100] * len(asked) + told])  # only the answer is learned
        loss = model(input_ids=torch.tensor([asked + told]), labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 10 == 0:
            print(f"step {step}: loss {loss.item():.3f}", flush=True)
    model.save_pretrained(out)
    return model.eval()


def main(out: Path, steps: int) -> int:
    """Returns the exit status."""
    model_dir, adapter = out / "model", out / "adapter"
    if not model_dir.exists():
        convert(find_default_gguf(), model_dir)
    model = train(model_dir, adapter, steps)
    config = EngineConfig(
        model_dir=model_dir, model_id="default", socket=out / "unused", device="cpu", dtype="float32",
        max_total_tokens=256, adapters=(Adapter("loud", str(adapter)),),
    )  # fmt: skip
    engine, _ = start_engine(config)
    tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
    prompts = [tokenizer.encode(CHAT.format(prompt)).ids for prompt in PROMPTS]
    names = ["loud", None]
    wanted = [(ids, name) for ids in prompts for name in names]
    for request_id, (ids, name) in enumerate(wanted):
        assert engine.submit(0, Submit(request_id, ids, SamplingParams(NEW_TOKENS, greedy=True, adapter=name))) is None
    got: list[list[int]] = [[] for _ in wanted]
    while engine.has_work:
        for step in engine.step().values():
            for tokens in step.tokens:
                got[tokens.request_id] += tokens.token_ids
    different = 0
    for (ids, name), tokens in zip(wanted, got, strict=True):
        with torch.inference_mode():
            settings = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
            if name is None:
                with model.disable_adapter():
                    oracle = model.generate(input_ids=torch.tensor([ids]), **settings)
            else:
                oracle = model.generate(input_ids=torch.tensor([ids]), **settings)
        same = oracle[0, len(ids) :].tolist() == tokens
        different += not same
        print(f"{'same' if same else 'DIFFERENT'}  {name or 'plain':<6}{tokenizer.decode(tokens)!r}", flush=True)
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 60))
