"""The requests of a chaos run: every route and kind of decoding, each with one right answer, or none to compare."""

import random
from dataclasses import dataclass
from typing import Any

TOPICS = ("rivers", "the moon", "a small town", "bread", "winter", "an old clock", "ships", "numbers")
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer", "maximum": 99}},
    "required": ["name", "age"],
}


@dataclass(frozen=True)
class Request:
    """What is sent."""

    path: str
    body: dict[str, Any]
    exact: bool = True  # the answer is the same each time; else only its form can be checked

    @property
    def streams(self) -> bool:
        return self.path == "/generate_stream" or bool(self.body.get("stream"))


def catalogue(chance: random.Random, size: int) -> list[Request]:
    """So many requests, of all kinds in turn."""
    kinds = (_native, _native_grammar, _native_long_prompt, _best_of, _chat, _completion, _chat_schema)
    return [kinds[number % len(kinds)](chance, number) for number in range(size)]


def _parameters(chance: random.Random, number: int) -> dict[str, Any]:
    parameters: dict[str, Any] = {"max_new_tokens": chance.choice([3, 12, 40, 80]), "details": chance.random() < 0.5}
    if chance.random() < 0.6:
        parameters |= {"do_sample": True, "seed": number, "temperature": chance.choice([0.5, 0.9, 1.4])}
        if chance.random() < 0.5:
            parameters |= {"top_p": 0.9, "top_k": 50}
    if chance.random() < 0.3:
        parameters["repetition_penalty"] = 1.2
    if chance.random() < 0.3:
        parameters["top_n_tokens"] = 3
    if chance.random() < 0.3:
        parameters["stop"] = ["the", ". "]
    return parameters


def _route(chance: random.Random) -> str:
    return chance.choice(["/generate", "/generate_stream"])


def _native(chance: random.Random, number: int) -> Request:
    return Request(
        _route(chance), {"inputs": f"A text about {_topic(number)}:", "parameters": _parameters(chance, number)}
    )


def _native_grammar(chance: random.Random, number: int) -> Request:
    grammar = chance.choice(
        [{"type": "regex", "value": "([a-z]{2,8} ){3,12}"}, {"type": "json", "value": SCHEMA}]
    )  # fmt: skip
    parameters = {"max_new_tokens": 40, "do_sample": True, "seed": number, "grammar": grammar}
    return Request(_route(chance), {"inputs": f"About {_topic(number)}: ", "parameters": parameters})


def _native_long_prompt(chance: random.Random, number: int) -> Request:
    inputs = " ".join(f"{_topic(number + i)} {i}" for i in range(chance.choice([20, 60])))
    parameters = {"max_new_tokens": 10, "decoder_input_details": True, "details": True}
    return Request("/generate", {"inputs": inputs, "parameters": parameters})


def _best_of(_chance: random.Random, number: int) -> Request:
    parameters = {"max_new_tokens": 15, "do_sample": True, "best_of": 2, "details": True}
    return Request("/generate", {"inputs": f"Say {_topic(number)}", "parameters": parameters}, exact=False)


def _chat(chance: random.Random, number: int) -> Request:
    messages = [{"role": "user", "content": f"Tell me about {_topic(number)}."}]
    body = {
        "messages": messages,
        "max_tokens": chance.choice([5, 30, 60]),
        "seed": number,
        "stream": chance.random() < 0.6,
    }
    if chance.random() < 0.4:
        body |= {"logprobs": True, "top_logprobs": 2, "presence_penalty": 0.5, "frequency_penalty": 0.4}
    return Request("/v1/chat/completions", body)


def _completion(chance: random.Random, number: int) -> Request:
    stream = chance.random() < 0.5
    # Of several streamed together, the order of their events depends on the time.
    body = {
        "prompt": f"{_topic(number)} is",
        "max_tokens": 25,
        "seed": number,
        "stream": stream,
        "n": 1 if stream else 2,
    }
    return Request("/v1/completions", body)


def _chat_schema(_chance: random.Random, number: int) -> Request:
    messages = [{"role": "user", "content": f"A person who likes {_topic(number)}, as JSON."}]
    shape = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}}
    return Request(
        "/v1/chat/completions",
        {"messages": messages, "max_tokens": 60, "seed": number, "response_format": shape, "stream": True},
    )


def _topic(number: int) -> str:
    return TOPICS[number % len(TOPICS)]
