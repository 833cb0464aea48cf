"""Agent SDKs and libraries for structured output: answers of a given form, beside tools."""

from pathlib import Path
from typing import Any

import pytest

from . import javascript, python_clients
from .serving import Serving

AGENTS = Path(__file__).with_name("new_clients") / "agents.py"
REPORT = {"city": "Paris", "degrees": 21}


@pytest.fixture(scope="module")
def got(shared_server: Serving) -> dict[str, Any]:
    return python_clients.run(AGENTS, shared_server.url)


@pytest.mark.parametrize("over", ["agents", "agents_over_chats"])
@pytest.mark.parametrize("way", ["whole", "streamed"])
def test_openai_agents_with_a_tool_and_an_output_type(got: dict[str, Any], over: str, way: str) -> None:
    assert got[over][way] == {"report": REPORT, "called": ["Paris"]}


def test_langchain(got: dict[str, Any]) -> None:
    answer = got["langchain"]
    assert answer["text"] == answer["streamed_text"]
    assert answer["text"]
    check_report(answer["report"])


def test_outlines(got: dict[str, Any]) -> None:
    answer = got["outlines"]
    for way in ("vllm_report", "vllm_streamed", "tgi_report"):
        check_report(answer[way])
    assert answer["vllm_streamed"] == answer["vllm_report"]
    assert {answer["vllm_choice"], answer["tgi_choice"]} <= {"yes", "no"}
    assert len(answer["vllm_regex"]) == len("2026-11")


def test_the_ai_sdk_with_a_tool_and_an_output_object(shared_server: Serving) -> None:
    got = javascript.run("ai.mjs", shared_server.url)
    for way in ("whole", "streamed"):
        assert got[way]["called"]
        check_report(got[way]["object"])
    assert got["streamed"]["partial"][-1] == got["streamed"]["object"]
    assert len(got["streamed"]["partial"]) > 2
    assert got["streamed"]["finish"] == "stop"
    assert got["whole"]["usage"] > 0


def check_report(report: dict[str, Any]) -> None:
    """Of the asked form; what it says is the model's affair."""
    assert set(report) == set(REPORT)
    assert isinstance(report["city"], str)
    assert isinstance(report["degrees"], int)
