"""Clients that cannot be installed beside the others: text-generation 0.7.0 and huggingface_hub 0.36."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import InferenceClient

from .serving import PATIENCE_S, ROOT, Serving

SOURCES = Path(__file__).with_name("old_clients")
BUILD = ROOT / "build" / "old_clients"


def install() -> Path:
    """The clients in a folder of their own. Returns it."""
    wanted, stamp = (SOURCES / "requirements.txt").read_bytes(), BUILD / "installed"
    if not stamp.exists() or stamp.read_bytes() != wanted:
        options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--upgrade", "--target", str(BUILD)]
        command = [sys.executable, "-m", "pip", "install", *options, "-r", str(SOURCES / "requirements.txt")]
        subprocess.run(command, check=True, timeout=300)
        stamp.write_bytes(wanted)
    return BUILD


@pytest.fixture(scope="module")
def got(shared_server: Serving) -> dict[str, Any]:
    """What they got."""
    ended = subprocess.run(
        [sys.executable, "-P", str(SOURCES / "clients.py"), shared_server.url],
        env=os.environ | {"PYTHONPATH": str(install())},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


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
