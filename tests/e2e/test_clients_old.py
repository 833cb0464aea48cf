"""Clients that cannot be installed beside the others: text-generation 0.7.0 and huggingface_hub 0.36."""

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import InferenceClient

from . import python_clients
from .serving import Serving

CLIENTS = Path(__file__).with_name("old_clients") / "clients.py"


@pytest.fixture(scope="module")
def got(shared_server: Serving) -> dict[str, Any]:
    """What they got."""
    return python_clients.run(CLIENTS, shared_server.url)


@pytest.mark.parametrize("client", ["text_generation", "async", "hub"])
def test_the_same_text_as_the_current_client_gets(shared_server: Serving, got: dict[str, Any], client: str) -> None:
    text = InferenceClient(shared_server.url).text_generation("What is Deep Learning?", max_new_tokens=12)
    assert got[client]["text"] == got[client]["stream_text"] == text
    assert got[client]["chat"] == got["hub"]["chat"]
    assert got[client]["chat"]


def test_details(got: dict[str, Any]) -> None:
    answer = got["text_generation"]
    assert answer["reason"] == "length"
    assert answer["tokens"] == answer["stream"]
    assert len(answer["tokens"]) == 12


def test_a_refusal_is_the_clients_own_exception(got: dict[str, Any]) -> None:
    assert "`truncate` must be strictly positive and less than" in got["text_generation"]["refused"]
