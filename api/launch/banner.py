"""What a server says of itself when it is ready: address, model, device, limits, and why they are what they are."""

import socket
from pathlib import Path

from ...engine.config import EngineConfig
from ...engine.frames import FrameError, FrameReader
from ...engine.messages import FromEngine, Hello
from ..config import ApiConfig

_HELLO_TIMEOUT_S = 2.0


def read_hello(path: Path) -> Hello | None:
    """What an engine says of itself to who connects; None if it says nothing."""
    reader: FrameReader[FromEngine] = FrameReader(FromEngine)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_HELLO_TIMEOUT_S)
        try:
            connection.connect(str(path))
            while data := connection.recv(1 << 16):
                for message in reader.feed(data):
                    return message if isinstance(message, Hello) else None
        except (OSError, FrameError):
            return None
    return None


def describe(address: str, engine: EngineConfig, api: ApiConfig, hello: Hello) -> dict[str, str]:
    """One line of text for each thing worth knowing."""
    asked = engine.max_total_tokens is not None and hello.max_total_tokens == engine.max_total_tokens
    why = "--max-total-tokens" if asked else "what the model and the KV cache allow; the engine says which"
    timeout = f"{api.request_timeout:g} s (--request-timeout)" if api.request_timeout else "none"
    cached = ", beginnings that prompts share are kept" if hello.prefix_cache else ""
    return {
        "address": address,
        "model": f"{api.model_id}, {hello.dtype}",
        "device": f"{hello.device}, {hello.backend} kernels ({_chosen_by(engine.device or engine.backend)})",
        "tokens": f"up to {hello.max_total_tokens} a request, prompt and answer ({why})",
        "requests": f"{api.max_concurrent_requests} at a time, more get 429 (--max-concurrent-requests)",
        "batch": f"up to {hello.max_sequences} sequences a step ({_chosen_by(engine.max_batch_size)})",
        "KV cache": f"{hello.num_pages * hello.page_size} tokens in {hello.kv_cache_dtype} "
        f"({_chosen_by(engine.kv_cache_bytes)}){cached}",
        "time limit": timeout,
        "access": "API key" if api.api_key is not None else "open to who reaches the address",
    }


def _chosen_by(asked: object) -> str:
    return "chosen from the hardware" if asked is None else "as asked for"


def banner(facts: dict[str, str]) -> str:
    """The facts as text, aligned, and a command to try."""
    width = max(map(len, facts))
    lines = [f"    {name:<{width}}  {value}" for name, value in facts.items()]
    key = " -H 'Authorization: Bearer ...'" if facts["access"] == "API key" else ""
    body = '{"inputs":"What is Deep Learning?","parameters":{"max_new_tokens":20}}'
    command = (
        f"    curl -N {facts['address']}/generate_stream -X POST \\\n"
        f"        -d '{body}' -H 'Content-Type: application/json'{key}"
    )
    return "\n".join(["", *lines, "", command, ""])
