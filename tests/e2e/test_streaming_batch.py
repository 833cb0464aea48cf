"""Many clients at once: each gets what it gets alone."""

import asyncio
import random
from typing import Any

import httpx2

from .serving import PATIENCE_S, Serving

CLIENTS = 32
PROMPTS = [
    "What is Deep Learning?",
    "def fibonacci(n):\n    ",
    "Il était une fois",
    "🙂🙃🙂🙃",
    "The following is a list of the largest cities of the world, by population. " * 6,
    "1 2 3 4",
    "a",
    "SELECT name FROM users WHERE",
]


def requests() -> list[dict[str, Any]]:
    """Greedy and sampled, short and long, with and without penalty and filters, each another prompt or length."""
    rng = random.Random(5)
    kinds: list[dict[str, Any]] = [
        {},
        {"do_sample": True},
        {"temperature": 0.7, "top_k": 20},
        {"temperature": 1.3, "top_p": 0.8},
        {"repetition_penalty": 1.3},
        {"do_sample": True, "top_k": 5, "top_p": 0.9, "repetition_penalty": 1.1},
    ]
    return [
        {
            "inputs": PROMPTS[i % len(PROMPTS)] + " " * (i // len(PROMPTS)),
            "parameters": {
                **kinds[i % len(kinds)],
                "seed": rng.getrandbits(64),
                "max_new_tokens": rng.randint(2, 8),
                "details": True,
            },
        }
        for i in range(CLIENTS)
    ]


async def ask(client: httpx2.AsyncClient, body: dict[str, Any]) -> dict[str, Any]:
    """Text, token ids and end of one request."""
    response = await client.post("/generate", json=body)
    assert response.status_code == 200, response.text
    answer = response.json()
    ids = [token["id"] for token in answer["details"].pop("tokens")]
    return {"text": answer["generated_text"], "ids": ids, **answer["details"]}


def test_each_client_gets_what_it_gets_alone(shared_fp32_server: Serving) -> None:
    async def run() -> None:
        bodies = requests()
        async with httpx2.AsyncClient(base_url=shared_fp32_server.url, timeout=PATIENCE_S) as client:
            together = await asyncio.gather(*(ask(client, body) for body in bodies))
            alone = [await ask(client, body) for body in bodies]
            assert together == alone
            assert len({answer["text"] for answer in alone}) > CLIENTS // 2

    asyncio.run(run())
