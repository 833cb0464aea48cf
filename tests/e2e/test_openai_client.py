"""The openai package, as users use it, against a real server of the default model."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel, Field

from .serving import Serving

QUESTION: list[Any] = [{"role": "user", "content": "What is Deep Learning?"}]
# What the default model answers in a few words, and ends.
CAPITAL: list[Any] = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Current weather of a city",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "enum": ["Zürich", "Oslo"]},
                "unit": {"type": "string", "enum": ["celsius", "kelvin"]},
            },
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}
CLOCK: Any = {"type": "function", "function": {"name": "get_time", "description": "Time now"}}


@pytest.fixture(scope="module")
def client(shared_server: Serving) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{shared_server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_models(client: OpenAI) -> None:
    (model,) = client.models.list()
    assert client.models.retrieve(model.id) == model
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.models.retrieve("no/model")


def test_chat_streamed_and_not(client: OpenAI) -> None:
    how: Any = {"model": "m", "messages": QUESTION, "max_tokens": 24, "temperature": 0}
    completion = client.chat.completions.create(**how)
    (choice,) = completion.choices
    assert completion.id.startswith("chatcmpl-")
    assert "learning" in (choice.message.content or "").lower()
    assert choice.finish_reason == "length"
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 24
    text, roles, reasons, usage = "", [], [], None
    for chunk in client.chat.completions.create(**how, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage
        for part in chunk.choices:
            text += part.delta.content or ""
            roles.append(part.delta.role)
            reasons.append(part.finish_reason)
    assert text == choice.message.content
    assert roles == ["assistant"] + [None] * (len(roles) - 1)
    assert reasons == [None] * (len(reasons) - 1) + ["length"]
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (completion.usage.prompt_tokens, 24)
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens is not None


def test_a_seed_gives_the_same_stream_and_answer(client: OpenAI) -> None:
    how: Any = {"model": "m", "messages": QUESTION, "max_tokens": 16, "seed": 7, "n": 2, "temperature": 1.2}
    texts = [choice.message.content for choice in client.chat.completions.create(**how).choices]
    assert texts[0] != texts[1]
    streamed = ["", ""]
    for chunk in client.chat.completions.create(**how, stream=True):
        for part in chunk.choices:
            streamed[part.index] += part.delta.content or ""
    assert streamed == texts


def test_the_streaming_helper(client: OpenAI) -> None:
    with client.chat.completions.stream(model="m", messages=CAPITAL, max_tokens=200, temperature=0) as stream:
        deltas = "".join(event.delta for event in stream if event.type == "content.delta")
    assert "Paris" in deltas
    assert stream.get_final_completion().choices[0].message.content == deltas


def test_an_end_of_its_own(client: OpenAI) -> None:
    completion = client.chat.completions.create(model="m", messages=CAPITAL, temperature=0, max_tokens=200)
    assert completion.choices[0].finish_reason == "stop"
    assert "<|im_end|>" not in (completion.choices[0].message.content or "")


@pytest.mark.parametrize("stop", [" is", ["zzz", " is"]])
def test_stop(client: OpenAI, stop: Any) -> None:
    how: Any = {"model": "m", "prompt": "Deep learning", "max_tokens": 32, "temperature": 0, "stop": stop}
    (choice,) = client.completions.create(**how).choices
    assert choice.finish_reason == "stop"
    assert " is" not in choice.text
    assert "".join(chunk.choices[0].text for chunk in client.completions.create(**how, stream=True)) == choice.text


def test_completions(client: OpenAI) -> None:
    how: Any = {"model": "m", "prompt": ["Once upon a time", "1, 2, 3,"], "max_tokens": 8, "temperature": 0}
    completion = client.completions.create(**how)
    assert [choice.index for choice in completion.choices] == [0, 1]
    assert "4, 5" in completion.choices[1].text
    streamed = ["", ""]
    for chunk in client.completions.create(**how, stream=True):
        for part in chunk.choices:
            streamed[part.index] += part.text
    assert streamed == [choice.text for choice in completion.choices]


def test_logprobs_of_completions(client: OpenAI) -> None:
    completion = client.completions.create(
        model="m", prompt="1, 2, 3,", max_tokens=4, temperature=0, logprobs=2, echo=True
    )
    (choice,) = completion.choices
    logprobs = choice.logprobs
    assert logprobs is not None
    assert "".join(logprobs.tokens or ()) == choice.text
    assert choice.text.startswith("1, 2, 3,")
    tokens, offsets, best = logprobs.tokens or [], logprobs.text_offset or [], logprobs.top_logprobs or []
    assert all(choice.text.startswith(token, at) for token, at in zip(tokens, offsets, strict=True))
    values = logprobs.token_logprobs or []
    assert values[0] is None
    assert all(value is not None and value <= 0 for value in values[1:])
    # Greedy: the drawn token is the best one.
    for token, value, others in list(zip(tokens, values, best, strict=True))[-4:]:
        assert len(others) == 2
        assert max(others, key=lambda name: others[name]) == token
        assert others[token] == value


def test_logprobs_of_chat(client: OpenAI) -> None:
    completion = client.chat.completions.create(
        model="m", messages=QUESTION, max_tokens=6, temperature=0, logprobs=True, top_logprobs=3
    )
    (choice,) = completion.choices
    assert choice.logprobs is not None
    tokens = choice.logprobs.content or []
    assert "".join(token.token for token in tokens) == choice.message.content
    assert all(len(token.top_logprobs) == 3 and token.top_logprobs[0].token == token.token for token in tokens)


def test_logit_bias(client: OpenAI) -> None:
    """A token that was first is not any more."""
    how: Any = {"model": "m", "prompt": "1, 2, 3,", "max_tokens": 2, "temperature": 0}
    text = client.completions.create(**how).choices[0].text
    prompt_tokens = client.completions.create(**how, logprobs=1).choices[0].logprobs
    assert prompt_tokens is not None
    four = client.post("/../tokenize", body={"inputs": text}, cast_to=object)
    biased = client.completions.create(**how, logit_bias={str(four[0]["id"]): -100})  # type: ignore[index]
    assert biased.choices[0].text != text


class City(BaseModel):
    """What the answer is to say; bounds, as a small model finds no end by itself."""

    name: str = Field(max_length=20)
    population: int = Field(ge=0, le=100_000_000)


def test_an_answer_by_a_schema(client: OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": "Tell me about Paris as JSON with name and population."}]
    completion = client.chat.completions.parse(
        model="m", messages=messages, response_format=City, max_tokens=100, temperature=0
    )
    city = completion.choices[0].message.parsed
    assert isinstance(city, City)
    assert completion.choices[0].finish_reason == "stop"


def test_any_json_object(client: OpenAI) -> None:
    completion = client.chat.completions.create(
        model="m",
        messages=QUESTION,
        response_format={"type": "json_object"},
        max_tokens=16,
        temperature=0,
    )
    assert (completion.choices[0].message.content or "").lstrip().startswith("{")


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_a_tool_that_must_be_called(client: OpenAI, choice: Any) -> None:
    how: Any = {
        "model": "m",
        "messages": [{"role": "user", "content": "What is the weather like in Oslo?"}],
        "tools": [WEATHER] if choice == "required" else [CLOCK, WEATHER],
        "tool_choice": choice,
        "parallel_tool_calls": False,
        "max_tokens": 60,
        "temperature": 0,
    }
    (answer,) = client.chat.completions.create(**how).choices
    assert answer.finish_reason == "tool_calls"
    assert answer.message.content is None
    (call,) = answer.message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "get_weather"
    arguments = json.loads(call.function.arguments)
    assert set(arguments) == {"city", "unit"}
    assert arguments["city"] in ("Zürich", "Oslo")
    with client.chat.completions.stream(**how) as stream:
        for _ in stream:
            pass
    (streamed,) = stream.get_final_completion().choices
    assert streamed.finish_reason == "tool_calls"
    (same,) = streamed.message.tool_calls or []
    assert same.id
    assert (same.function.name, same.function.arguments) == (call.function.name, call.function.arguments)


def test_a_conversation_with_a_call_in_it(client: OpenAI) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city":"Oslo"}'}}
    messages: Any = [
        {"role": "user", "content": "What is the weather like in Oslo?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "It snows."},
    ]
    completion = client.chat.completions.create(
        model="m", messages=messages, tools=[WEATHER], tool_choice="none", max_tokens=16, temperature=0
    )
    assert completion.choices[0].message.content


@pytest.mark.parametrize("stream", [False, True])
def test_refusals_are_exceptions_with_their_reason(client: OpenAI, stream: bool) -> None:
    how: Any = {"model": "m", "messages": QUESTION, "stream": stream}
    with pytest.raises(openai.UnprocessableEntityError, match="`temperature` must be >= 0") as caught:
        client.chat.completions.create(**how, temperature=-1)
    assert (caught.value.param, caught.value.type) == ("temperature", "invalid_request_error")
    schema = {"type": "object", "properties": {"a": {"type": "nonsense"}}}
    with pytest.raises(openai.UnprocessableEntityError, match="grammar"):
        client.chat.completions.create(
            **how, response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        )
    image = [{"type": "image_url", "image_url": {"url": "data:"}}]
    with pytest.raises(openai.UnprocessableEntityError, match="image_url"):
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": image}], stream=stream)  # type: ignore[call-overload]


def test_many_at_a_time(shared_server: Serving) -> None:
    async def one(client: AsyncOpenAI) -> str:
        text = ""
        stream = await client.chat.completions.create(
            model="m", messages=QUESTION, max_tokens=12, temperature=0, stream=True
        )
        async for chunk in stream:
            text += chunk.choices[0].delta.content or ""
        return text

    async def run() -> list[str]:
        async with AsyncOpenAI(base_url=f"{shared_server.url}/v1", api_key="none") as client:
            return await asyncio.gather(*(one(client) for _ in range(6)))

    texts = asyncio.run(run())
    assert len(texts) == 6
    assert all(texts)
