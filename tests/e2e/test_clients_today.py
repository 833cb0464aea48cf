"""The clients that speak /v1/responses and /v1/messages by default, from their default constructors."""

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest
from anthropic import Anthropic
from openai import OpenAI
from pydantic import BaseModel

from . import javascript
from .serving import Serving
from .test_clients_agents import check_report

CAPITAL = "What is the capital of France? Answer in one sentence."
HOW: dict[str, Any] = {"model": "default", "temperature": 0}
WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "Current weather of a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Zürich", "Oslo"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}


class Report(BaseModel):
    city: str
    degrees: int


@pytest.fixture(scope="module")
def url(shared_server: Serving) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as environment:
        for name in ("OPENAI", "ANTHROPIC"):
            environment.setenv(f"{name}_API_KEY", "-")
        environment.setenv("OPENAI_BASE_URL", f"{shared_server.url}/v1")
        environment.setenv("ANTHROPIC_BASE_URL", shared_server.url)
        yield shared_server.url


@pytest.mark.usefixtures("url")
def test_responses_of_openai() -> None:
    client = OpenAI()
    whole = client.responses.create(**HOW, input=CAPITAL, max_output_tokens=24)
    assert "Paris" in whole.output_text
    with client.responses.stream(**HOW, input=CAPITAL, max_output_tokens=24) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        assert text == stream.get_final_response().output_text == whole.output_text
    after = client.responses.create(**HOW, input="Why?", previous_response_id=whole.id, max_output_tokens=8)
    assert after.usage is not None
    assert whole.usage is not None
    assert after.usage.input_tokens > whole.usage.total_tokens
    report = client.responses.parse(
        **HOW, input="It is 21 degrees in Paris. Report it.", text_format=Report, max_output_tokens=100
    )
    assert isinstance(report.output_parsed, Report)
    called = client.responses.create(
        **HOW, input=CAPITAL, tools=[WEATHER], tool_choice="required", max_output_tokens=80
    )
    call = called.output[0]
    assert call.type == "function_call"
    assert json.loads(call.arguments)["city"] in ("Zürich", "Oslo")
    with pytest.raises(openai.UnprocessableEntityError, match="web_search"):
        client.responses.create(**HOW, input=CAPITAL, tools=[{"type": "web_search"}])


@pytest.mark.usefixtures("url")
def test_responses_of_openai_in_the_background() -> None:
    client = OpenAI()
    queued = client.responses.create(**HOW, input=CAPITAL, background=True, max_output_tokens=24)
    assert queued.status == "queued"
    events = list(client.responses.retrieve(queued.id, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    rest = list(client.responses.retrieve(queued.id, stream=True, starting_after=4))
    assert [event.sequence_number for event in rest] == list(range(5, len(events)))
    ended = client.responses.retrieve(queued.id)
    assert "Paris" in ended.output_text
    long: Any = {"max_output_tokens": 900, "background": True}
    running = client.responses.create(**HOW, input="Count to a thousand.", **long)
    assert client.responses.cancel(running.id).status in ("cancelled", "completed", "incomplete")
    client.responses.delete(running.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(running.id)


@pytest.mark.usefixtures("url")
def test_messages_of_anthropic() -> None:
    client = Anthropic()
    # Its newest models know no temperature, and so no method of the package does.
    greedy = {"temperature": 0}
    messages: Any = [{"role": "user", "content": CAPITAL}]
    how: Any = {"model": "default", "messages": messages, "max_tokens": 24, "extra_body": greedy}
    whole = client.messages.create(**how, system="You know geography.")
    assert whole.content[0].type == "text"
    assert "Paris" in whole.content[0].text
    with client.messages.stream(**how, system="You know geography.") as stream:
        text = "".join(stream.text_stream)
        last = stream.get_final_message()
    assert text == whole.content[0].text
    assert (last.stop_reason, last.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)
    counted = client.messages.count_tokens(model="default", messages=messages, system="You know geography.")
    assert counted.input_tokens == whole.usage.input_tokens + (whole.usage.cache_read_input_tokens or 0)
    tool: Any = {"name": "get_weather", "description": "of a city", "input_schema": WEATHER["parameters"]}
    with client.messages.stream(**how | {"max_tokens": 80}, tools=[tool], tool_choice={"type": "any"}) as stream:
        (call, *_) = stream.get_final_message().content
    assert call.type == "tool_use"
    assert call.input["city"] in ("Zürich", "Oslo")
    with pytest.raises(anthropic.UnprocessableEntityError, match="strictly positive"):
        client.messages.create(**how | {"max_tokens": 0})


def test_clients_in_javascript(url: str) -> None:
    got = javascript.run("today.mjs", url)
    responses = got["openai"]
    assert responses["whole"] == responses["streamed"] == responses["last"] == responses["background"]
    assert (responses["previous"], responses["next"], responses["resumed"]) == (True, True, True)
    for way in ("whole", "streamed"):
        assert got["ai"][way]["called"]
        check_report(got["ai"][way]["object"])
    assert got["ai"]["streamed"]["partial"][-1] == got["ai"]["streamed"]["object"]
    messages = got["anthropic"]
    assert messages["whole"] == messages["streamed"] == messages["last"]
    assert messages["counted"] == messages["used"]
    assert messages["refused"] == {"status": 422, "type": "invalid_request_error"}
