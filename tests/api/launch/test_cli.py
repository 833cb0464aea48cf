import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from headwater.api.cli import app
from headwater.api.config import ApiConfig
from headwater.engine.checkpoint.convert import CONVERTER_VERSION
from headwater.engine.config import EngineConfig

HEADWATER = str(Path(sys.executable).with_name("headwater"))


def headwater(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("MODEL_ID", "PORT")}
    return subprocess.run([HEADWATER, *arguments], capture_output=True, text=True, timeout=120, env=environment)


@pytest.mark.parametrize(
    ("command", "words"),
    [((), ["serve", "convert"]), (("serve",), ["--max-total-tokens", "--port"]), (("convert",), ["FILE.gguf", "DIR"])],
)
def test_help(command: tuple[str, ...], words: list[str]) -> None:
    ended = headwater(*command, "--help")
    assert ended.returncode == 0
    assert all(word in ended.stdout for word in words)


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_the_version(flag: str) -> None:
    assert headwater(flag).stdout == "headwater 0.1.0\n"


def test_the_command_line_does_not_import_torch() -> None:
    program = "import sys, headwater.api.cli; print({'torch', 'numpy', 'huggingface_hub'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-P", "-c", program], text=True) == "set()\n"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("serve", "./none", "--port", "0"), 1, "headwater: error: ./none: no such directory or .gguf file"),
        (("convert", "none.gguf", "out"), 1, "headwater: error: none.gguf: no such file."),
        (("serve", "--dtype", "int3"), 2, "'int3' is not one of 'bfloat16', 'float16', 'float32'"),
        (("serve", "--max-input-tokens", "9", "--max-total-tokens", "9"), 2, "must be below max-total-tokens 9"),
        (("serve", "--no-such-flag"), 2, "No such option"),
        (("serve", "--port", "65536"), 2, "less than or equal to 65535"),
        (("serve", "--sharded", "true", "--num-shard", "1"), 1, "headwater: error: --sharded true, but --num-shard 1"),
        (("serve", "--api-key", ""), 2, "api-key is empty"),
    ],
)
def test_an_error_of_the_user_is_told_without_a_traceback(arguments: tuple[str, ...], code: int, message: str) -> None:
    ended = headwater(*arguments)
    assert ended.returncode == code
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr


def test_with_json_output_an_error_is_a_line_of_the_log() -> None:
    ended = headwater("serve", "./none", "--json-output", "--port", "0", "--env")
    assert (ended.returncode, ended.stderr) == (1, "")
    note, error = (json.loads(line) for line in ended.stdout.splitlines())
    assert (note["level"], note["target"]) == ("WARNING", "headwater.api.cli")
    assert note["message"].startswith("--env changes nothing: ")
    assert error["level"] == "ERROR"
    assert error["message"].startswith("./none: no such directory or .gguf file")


def test_conversions_are_listed_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache = tmp_path / "headwater"
    for name, source in (("gguf-1", tmp_path), ("gguf-2", tmp_path / "gone"), ("tiny-3", tmp_path)):
        (cache / name).mkdir(parents=True)
        (cache / name / "model.safetensors").write_bytes(bytes(3_000_000))
        stamp = {"device": 0, "inode": 0, "size": tmp_path.stat().st_size, "modified_ns": 0, "changed_ns": 0}
        record = {"converter": CONVERTER_VERSION, "sources": {str(source): stamp}}
        (cache / name / "conversion.json").write_text(json.dumps(record))
    listed = headwater("cache", "list").stdout.splitlines()
    assert listed[:2] == [f"gguf-1  3 MB  {tmp_path}", f"gguf-2  3 MB  {tmp_path}/gone (unused)"]
    assert listed[3] == f"{cache}: 3 conversions, 9 MB"
    assert headwater("cache", "remove").returncode == 2
    assert headwater("cache", "remove", "gguf-1", "gguf-9").stderr == f"headwater: error: {cache}: there is no gguf-9\n"
    removed = headwater("cache", "remove", "--unused").stdout.splitlines()
    assert removed == ["removed gguf-2", "removed tiny-3", f"{cache}: removed 2 conversions, 6 MB"]
    assert headwater("cache", "remove", "gguf-1").returncode == 0
    assert list(cache.iterdir()) == []


class Recorder:
    """Takes the supervisor's place: keeps its settings and starts nothing."""

    settings: tuple[EngineConfig, ApiConfig]

    def __init__(self, engine: EngineConfig, api: ApiConfig, begin: float) -> None:  # noqa: ARG002
        Recorder.settings = engine, api

    def run(self) -> int:
        return 5


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("headwater.api.cli.Supervisor", Recorder)
    for name in ("setproctitle", "configure_logging"):
        monkeypatch.setattr(f"headwater.api.cli.{name}", str)  # this process is pytest
    config = {"model_type": "llama", "vocab_size": 8, "hidden_size": 8, "intermediate_size": 8}
    config |= {"num_hidden_layers": 1, "num_attention_heads": 1}
    (tmp_path / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "model.safetensors"):
        (tmp_path / name).touch()
    return str(tmp_path)


def settings_of(*arguments: str, **variables: str) -> tuple[EngineConfig, ApiConfig]:
    result = CliRunner().invoke(app, ["serve", "--port", "0", *arguments], env={"MODEL_ID": None, **variables})
    assert result.exit_code == 5, result.output  # what the supervisor returned
    return Recorder.settings


def test_defaults(model: str) -> None:
    engine, api = settings_of(model)
    assert engine.model_dir == api.model_dir == Path(model)
    assert engine.model_id == api.model_id == model
    assert engine.socket == api.engine_socket
    assert not engine.socket.parent.exists()  # removed at the end
    assert engine.dtype is engine.max_total_tokens is api.max_input_tokens is None
    assert (api.host, api.max_concurrent_requests, api.max_best_of, api.max_stop_sequences) == ("127.0.0.1", 128, 2, 4)
    assert (api.max_top_n_tokens, api.max_client_batch_size, api.payload_limit) == (5, None, 2_000_000)
    assert api.graceful_termination_timeout == 90
    assert api.version == "0.1.0"
    assert api.otlp_service_name == "text-generation-inference.router"  # as TGI's
    assert api.port > 0


def test_help_groups_flags_and_names_tgis() -> None:
    text = " ".join(headwater("serve", "--help").stdout.split())
    groups = ["Model:", "Address and access:", "Limits:", "Engine:", "Server:"]
    assert sorted(groups, key=text.index) == groups
    assert "[TGI: PREFIX_CACHING=0]" in text
    assert "Seconds a request may take, waiting too; 0: any. [not in TGI]" in text
    assert "--num-shard" in text


def test_the_newer_flags_reach_their_process(model: str) -> None:
    flags = ["--request-timeout", "1.5", "--api-key", "k", "--validation-workers", "3", "--disable-grammar-support"]
    engine, api = settings_of(model, *flags, "--no-prefix-cache", SPECULATE="3", PORT="1")
    assert (engine.prefix_cache, engine.speculate) == (False, 3)
    assert (api.request_timeout, api.api_key, api.validation_workers) == (1.5, "k", 3)
    assert api.disable_grammar_support
    engine, api = settings_of(model, PREFIX_CACHING="0")
    assert (engine.prefix_cache, engine.speculate) == (False, None)
    assert settings_of(model)[0].prefix_cache


def test_a_draft_model_is_found_as_the_model_is(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path.parent)
    for engine, api in (
        settings_of(model, "--speculative-model", tmp_path.name),
        settings_of(model, HEADWATER_SPECULATIVE_MODEL=tmp_path.name),
    ):
        assert (engine.speculative_model, engine.speculate, api.model_id) == (tmp_path, None, model)
    assert settings_of(model)[0].speculative_model is None
    result = CliRunner().invoke(app, ["serve", model, "--port", "0", "--speculative-model", "./nowhere"])
    assert result.exit_code == 1


def test_flags_reach_both_processes_in_either_spelling(model: str) -> None:
    flags = [
        "--max_total_tokens",
        "100",
        "--max-input-length",
        "50",
        "--dtype",
        "float32",
        "--threads",
        "1",
        "-g",
        "2.5",
    ]
    origins = ["--cors-allow-origin", "http://a", "--cors_allow_origin", "http://b"]
    engine, api = settings_of(model, *flags, *origins, "--json-output")
    assert engine.json_output == api.json_output is True
    assert engine.max_total_tokens == api.max_total_tokens == 100
    assert api.max_input_tokens == 50
    assert (engine.dtype, engine.threads) == ("float32", 1)
    assert api.graceful_termination_timeout == 2.5
    assert api.cors_allow_origin == ("http://a", "http://b")


def test_environment_variables_are_read_and_flags_win(model: str) -> None:
    variables = {"MODEL_ID": model, "MAX_BEST_OF": "7", "MAX_STOP_SEQUENCES": "8", "JSON_OUTPUT": "true"}
    # HOSTNAME is set in every container, to the container's name.
    engine, api = settings_of("--max-best-of", "3", **variables, HOSTNAME="4f2a91c0")
    assert (api.model_id, api.max_best_of, api.max_stop_sequences, api.json_output) == (model, 3, 8, True)
    assert engine.json_output
    assert api.host == "127.0.0.1"


def test_the_model_argument_wins(model: str) -> None:
    _, api = settings_of(model, MODEL_ID="owner/other")
    assert api.model_id == model


def test_another_tokenizer_config_is_every_process_s(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    given = tmp_path / "mine.json"
    given.write_text('{"chat_template": "mine"}')
    for engine, api in (
        settings_of(model, "--tokenizer-config-path", str(given)),
        settings_of(model, TOKENIZER_CONFIG_PATH=str(given)),
    ):
        assert engine.model_dir == api.model_dir
        assert (api.model_dir / "tokenizer_config.json").read_text() == given.read_text()
        assert api.model_id == model


def test_a_revision_of_what_is_not_from_the_hub_is_said_to_change_nothing(
    model: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings_of(model)
    assert "--revision" not in caplog.text
    CliRunner().invoke(app, ["serve", model, "--port", "0", "--revision", "v1"])
    assert "--revision changes nothing: MODEL is not from the Hub" in caplog.text
