"""lm-eval with tasks of local files, through a server and through transformers.

Arguments: address, folder of the model, folder to write to. Writes what both said of each request, as JSON.
"""

import json
import sys
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.tasks import TaskManager

# Choices of several tokens, one with a character of several, and texts that share their beginning.
DOCUMENTS = [
    {"question": "The capital of France is", "choices": [" Paris", " London", " Rome"], "answer": 0},
    {"question": "The capital of France is a city", "choices": [" with a tower", " with a naïve café 🗼"], "answer": 0},
    {"question": "Water freezes at", "choices": [" zero degrees Celsius", " fifty degrees Celsius"], "answer": 0},
    {"question": "A cat says", "choices": [" moo", " meow"], "answer": 1},
]
CHOICES = """
task: local_choices
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: answer
target_delimiter: ""
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
ROLLING = """
task: local_rolling
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}}{{choices[0]}}, as everybody knows who went to school."
metric_list: [{metric: bits_per_byte}]
"""
GENERATED = """
task: local_generated
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[answer]}}"
generation_kwargs: {until: ["."], max_gen_toks: 8, do_sample: false}
metric_list: [{metric: exact_match}]
"""
TASKS = {"local_choices": CHOICES, "local_rolling": ROLLING, "local_generated": GENERATED}


def write_tasks(folder: Path) -> None:
    documents = folder / "documents.jsonl"
    documents.write_text("".join(json.dumps(document) + "\n" for document in DOCUMENTS))
    source = f"test_split: test\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {documents}}}}}\n"
    for name, task in TASKS.items():
        (folder / f"{name}.yaml").write_text(task + source)


def evaluate(folder: Path, model: str, arguments: dict[str, Any], batch_size: int) -> dict[str, Any]:
    """Metrics, and of each request the answer: log-likelihood and whether it is what greedy would say, or a text."""
    found = lm_eval.simple_evaluate(
        model=model,
        model_args=arguments,
        tasks=list(TASKS),
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        batch_size=batch_size,
        bootstrap_iters=0,
    )
    samples = {
        name: [sample["resps"] for sample in sorted(of_task, key=lambda sample: sample["doc_id"])]
        for name, of_task in found["samples"].items()
    }
    metrics = {
        name: {
            metric: value for metric, value in of_task.items() if metric.endswith(",none") and "stderr" not in metric
        }
        for name, of_task in found["results"].items()
    }
    return {"samples": samples, "metrics": metrics}


def main() -> None:
    url, model = sys.argv[1:3]
    folder = Path(sys.argv[3])
    write_tasks(folder)
    server = {
        "model": "default",
        "base_url": f"{url}/v1/completions",
        "tokenizer": model,
        "tokenizer_backend": "huggingface",
        "tokenized_requests": True,
        "num_concurrent": 2,
    }
    got = {
        "headwater": evaluate(folder, "local-completions", server, batch_size=5),
        "transformers": evaluate(
            folder, "hf", {"pretrained": model, "dtype": "float32", "device": "cpu"}, batch_size=1
        ),
    }
    print(json.dumps(got))


if __name__ == "__main__":
    main()
