"""Servers whose models have chat templates that show all they are given, and room for long prompts."""

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from ..conftest import ApiServer, EnginePeer, run_api_server

TEMPLATE = (
    "{% for message in messages %}{{ message.role }}:{{ message.content }};{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
# The same for a model that was taught to call functions, in the form of Hermes and Qwen.
TOOL_TEMPLATE = (
    "{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}Use <tool_call>.\n"
    "{% for message in messages %}{{ message.role }}:{{ message.content }}"
    "{% for call in message.tool_calls %}{{ call.function.name }}={{ call.function.arguments.city }}{% endfor %};"
    "{% endfor %}assistant:"
)
# As Qwen 3's and DeepSeek V3.1's do it: thoughts are part of the history, and may be closed before they begin.
THINKING_TEMPLATE = (
    "{% for message in messages %}{{ message.role }}:{% if message.reasoning_content %}<think>"
    "{{ message.reasoning_content }}</think>{% endif %}{{ message.content }};{% endfor %}{% if tools %}<tool_call>"
    "{% endif %}{{ reasoning_effort }}assistant:{% if enable_thinking is false %}<think></think>{% endif %}"
    "{% if open %}<think>\n{% endif %}"
)


@pytest.fixture(scope="session")
def chat_dir(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> Path:
    path = tmp_path_factory.mktemp("chat")
    for file in model_dir.iterdir():
        (path / file.name).write_bytes(file.read_bytes())
    named = [{"name": "default", "template": TEMPLATE}, {"name": "tool_use", "template": TOOL_TEMPLATE}]
    (path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    return path


@pytest.fixture(scope="session")
def chat(tmp_path_factory: pytest.TempPathFactory, chat_dir: Path) -> Iterator[ApiServer]:
    """One worker, at most 8 sequences at a time."""
    hello = msgspec.structs.replace(EnginePeer.hello, max_total_tokens=2048)
    directory = tmp_path_factory.mktemp("api")
    with run_api_server(directory, chat_dir, hello, max_concurrent_requests=8, payload_limit=100_000) as server:
        yield server


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> Iterator[ApiServer]:
    """A model without a chat template."""
    with run_api_server(tmp_path_factory.mktemp("api"), model_dir) as server:
        yield server


@pytest.fixture(scope="session")
def thinker(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> Iterator[ApiServer]:
    """A model that thinks."""
    path = tmp_path_factory.mktemp("thinker")
    for file in model_dir.iterdir():
        (path / file.name).write_bytes(file.read_bytes())
    (path / "chat_template.jinja").write_text(THINKING_TEMPLATE)
    hello = msgspec.structs.replace(EnginePeer.hello, max_total_tokens=2048)
    with run_api_server(tmp_path_factory.mktemp("api"), path, hello) as server:
        yield server
