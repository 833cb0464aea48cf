"""What users of the text-generation package and of an old huggingface_hub write; runs apart from the tests' packages.

Argument: address. Writes what they got, as JSON.
"""

import asyncio
import json
import sys
from typing import Any

import huggingface_hub
from text_generation import AsyncClient, Client
from text_generation.errors import ValidationError

URL = sys.argv[1]
PROMPT = "What is Deep Learning?"
LENGTH = 12


def text_generation() -> dict[str, Any]:
    client = Client(URL, timeout=120)
    whole = client.generate(PROMPT, max_new_tokens=LENGTH)
    stream = list(client.generate_stream(PROMPT, max_new_tokens=LENGTH))
    chat = client.chat([{"role": "user", "content": "Who are you?"}], max_tokens=LENGTH, temperature=0.0)
    try:
        client.generate(PROMPT, max_new_tokens=LENGTH, truncate=10**6)
    except ValidationError as error:
        refused = str(error)
    return {
        "text": whole.generated_text,
        "reason": whole.details.finish_reason.value,
        "tokens": [token.id for token in whole.details.tokens],
        "stream": [event.token.id for event in stream],
        "stream_text": stream[-1].generated_text,
        "chat": chat.choices[0].message.content,
        "refused": refused,
    }


async def text_generation_async() -> dict[str, Any]:
    client = AsyncClient(URL, timeout=120)
    whole = await client.generate(PROMPT, max_new_tokens=LENGTH)
    stream = [event async for event in client.generate_stream(PROMPT, max_new_tokens=LENGTH)]
    # Not streamed: this client wants `tool_calls` in every event, which TGI doesn't send either.
    chat = await client.chat([{"role": "user", "content": "Who are you?"}], max_tokens=LENGTH, temperature=0.0)
    return {
        "text": whole.generated_text,
        "stream_text": "".join(event.token.text for event in stream if not event.token.special),
        "chat": chat.choices[0].message.content,
    }


def hub() -> dict[str, Any]:
    client = huggingface_hub.InferenceClient(URL)
    chat = client.chat_completion([{"role": "user", "content": "Who are you?"}], max_tokens=LENGTH, temperature=0)
    return {
        "text": client.text_generation(PROMPT, max_new_tokens=LENGTH),
        "stream_text": "".join(client.text_generation(PROMPT, max_new_tokens=LENGTH, stream=True)),
        "chat": chat.choices[0].message.content,
    }


print(json.dumps({"text_generation": text_generation(), "async": asyncio.run(text_generation_async()), "hub": hub()}))
