"""What a server answers is what its OpenAPI document says, whatever is asked."""

import json
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from headwater.engine.checkpoint.resolve import resolve_model

from .serving import PATIENCE_S, Serving, post, serving

# Requests with the examples of TGI's own OpenAPI document (3.3), every alternative of its types once.
REQUESTS: list[dict[str, Any]] = json.loads((Path(__file__).parents[1] / "data" / "tgi_requests.json").read_text())
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
EXAMPLES = 3  # of each operation, beside those that reach every keyword of its schema


@pytest.fixture(scope="module")
def document(shared_server: Serving) -> dict[str, Any]:
    with urllib.request.urlopen(f"{shared_server.url}/openapi.json", timeout=PATIENCE_S) as response:
        return json.load(response)


def validate(document: dict[str, Any], schema: dict[str, Any], value: Any) -> None:
    """Raises jsonschema_rs.ValidationError."""
    jsonschema_rs.Draft202012Validator({**schema, "components": document["components"]}).validate(value)


@pytest.mark.parametrize("asked", REQUESTS, ids=lambda asked: asked["route"])
def test_requests_of_tgis_document_are_answered_as_ours_says(
    shared_server: Serving, document: dict[str, Any], asked: dict[str, Any]
) -> None:
    with post(shared_server.url + asked["route"], asked["body"]) as response:
        status, kind, text = response.status, response.headers["content-type"], response.read()
    answer = document["paths"][asked["route"]]["post"]["responses"][str(status)]["content"][kind]
    if kind == "application/json":
        validate(document, answer["schema"], json.loads(text))
        return
    assert kind == "text/event-stream"
    event = answer["schema"]["properties"]["data"]["contentSchema"]
    lines = [line.removeprefix(b"data: ") for line in text.splitlines() if line]
    if asked["route"].startswith("/v1/"):
        assert lines.pop() == b"[DONE]"
    for line in lines:
        validate(document, event, json.loads(line))
    assert lines


@pytest.fixture(scope="module")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights beside the default model's tokenizer and chat template: hundreds of bodies are valid."""
    directory = tmp_path_factory.mktemp("small")
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1}
    LlamaForCausalLM(LlamaConfig(vocab_size=49152, max_position_embeddings=64, **sizes)).save_pretrained(directory)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(resolve_model(None).directory / name, directory)
    return directory


def test_whatever_is_sent_the_answer_is_documented(tmp_path: Path, small_model: Path) -> None:
    with serving(str(small_model), "--max-batch-prefill-tokens", "32", "--kv-cache-bytes", str(64 << 20)) as server:
        server.wait_ready()
        command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{server.url}/openapi.json"]
        options = ["--checks", CHECKS, "--phases", "coverage,fuzzing", "--max-examples", str(EXAMPLES), "--seed", "1"]
        ended = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stdout
        assert "Traceback" not in server.output
