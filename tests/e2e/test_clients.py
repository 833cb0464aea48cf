"""What users type, word for word, against a real server of the default model."""

import asyncio
import json
import subprocess

import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient, TextGenerationOutput, TextGenerationStreamOutput
from huggingface_hub.errors import ValidationError

from .serving import Serving

# The guide's prompt, to which the default model answers with nothing but its end token, and one it has more to say to.
PROMPTS = ["How do you make cheese?", "What is Deep Learning?"]


@pytest.fixture(scope="module", params=PROMPTS)
def prompt(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def answer(shared_server: Serving, prompt: str) -> TextGenerationOutput:
    """The whole answer, which every other form must agree with."""
    client = InferenceClient(shared_server.url)
    return client.text_generation(prompt, max_new_tokens=12, details=True)


def token_texts(answer: TextGenerationOutput) -> list[str]:
    assert answer.details is not None
    return [token.text for token in answer.details.tokens]


def check_details(events: list[TextGenerationStreamOutput], answer: TextGenerationOutput) -> None:
    """A stream with details says what the whole answer says."""
    assert answer.details is not None
    assert [event.index for event in events] == list(range(1, len(events) + 1))
    assert [vars(event.token) for event in events] == [vars(token) for token in answer.details.tokens]
    assert all(event.generated_text is None and event.details is None for event in events[:-1])
    assert events[-1].generated_text == answer.generated_text
    end = events[-1].details
    assert end is not None
    assert (end.finish_reason, end.generated_tokens) == (answer.details.finish_reason, len(events))
    assert end.seed is None


def test_the_answer_is_consistent(answer: TextGenerationOutput, prompt: str) -> None:
    details = answer.details
    assert details is not None
    assert (details.generated_tokens, details.seed, details.prefill) == (len(details.tokens), None, [])
    assert "".join(token.text for token in details.tokens if not token.special) == answer.generated_text
    assert all(token.logprob <= 0 for token in details.tokens)
    if prompt == PROMPTS[1]:
        assert (details.finish_reason, details.generated_tokens) == ("length", 12)
        assert "Deep Learning" in answer.generated_text
    else:
        assert details.finish_reason == "eos_token"
        assert details.tokens[-1].special


def test_text_generation(shared_server: Serving, prompt: str, answer: TextGenerationOutput) -> None:
    client = InferenceClient(shared_server.url)
    assert client.text_generation(prompt, max_new_tokens=12) == answer.generated_text


def test_text_generation_stream(shared_server: Serving, prompt: str, answer: TextGenerationOutput) -> None:
    client = InferenceClient(shared_server.url)
    tokens = list(client.text_generation(prompt, max_new_tokens=12, stream=True))
    assert tokens == token_texts(answer)


def test_text_generation_stream_with_details(shared_server: Serving, prompt: str, answer: TextGenerationOutput) -> None:
    client = InferenceClient(shared_server.url)
    check_details(list(client.text_generation(prompt, max_new_tokens=12, details=True, stream=True)), answer)


def test_async_text_generation(shared_server: Serving, prompt: str, answer: TextGenerationOutput) -> None:
    async def run() -> None:
        client = AsyncInferenceClient(shared_server.url)
        assert await client.text_generation(prompt, max_new_tokens=12) == answer.generated_text
        assert await client.text_generation(prompt, max_new_tokens=12, details=True) == answer
        stream = await client.text_generation(prompt, max_new_tokens=12, stream=True)
        assert [token async for token in stream] == token_texts(answer)
        detailed = await client.text_generation(prompt, max_new_tokens=12, details=True, stream=True)
        check_details([event async for event in detailed], answer)

    asyncio.run(run())


def test_the_guide_word_for_word(shared_server: Serving, capsys: pytest.CaptureFixture[str]) -> None:
    guide = """
from huggingface_hub import InferenceClient
client = InferenceClient("http://127.0.0.1:8080")
for token in client.text_generation("How do you make cheese?", max_new_tokens=12, stream=True):
    print(token)
for details in client.text_generation("How do you make cheese?", max_new_tokens=12, details=True, stream=True):
    print(details)
"""
    exec(guide.replace("http://127.0.0.1:8080", shared_server.url))
    first, *rest = capsys.readouterr().out.splitlines()
    assert first
    assert rest[-1].startswith("TextGenerationStreamOutput(index=")


def test_several_streams_of_one_client(shared_server: Serving, prompt: str, answer: TextGenerationOutput) -> None:
    async def one(client: AsyncInferenceClient) -> list[str]:
        return [token async for token in await client.text_generation(prompt, max_new_tokens=12, stream=True)]

    async def run() -> list[list[str]]:
        client = AsyncInferenceClient(shared_server.url)
        return await asyncio.gather(*(one(client) for _ in range(4)))

    for tokens in asyncio.run(run()):
        assert len(tokens) == len(token_texts(answer))


@pytest.mark.parametrize("stream", [False, True])
def test_a_refusal_is_the_clients_own_exception(shared_server: Serving, stream: bool) -> None:
    client = InferenceClient(shared_server.url)
    with pytest.raises(ValidationError, match="`top_p` must be > 0"):
        list(client.text_generation("Hi", top_p=1.0, stream=stream))


def test_a_client_that_leaves_its_loop_can_go_on(shared_server: Serving) -> None:
    client = InferenceClient(shared_server.url)
    for _ in client.text_generation("Once upon a time", max_new_tokens=500, stream=True):
        break
    assert client.text_generation("What is Deep Learning?", max_new_tokens=2)


def test_curl(shared_server: Serving) -> None:
    command = """
        curl -N 127.0.0.1:8080/generate_stream -X POST \
            -d '{"inputs":"What is Deep Learning?","parameters":{"max_new_tokens":20}}' \
            -H 'Content-Type: application/json'
    """.replace("127.0.0.1:8080", shared_server.url).strip()
    output = subprocess.run(command, shell=True, capture_output=True, check=True).stdout
    *events, end = output.split(b"\n\n")
    assert end == b""
    assert all(event.startswith(b"data: {") and b"\n" not in event for event in events)
    answers = [json.loads(event.removeprefix(b"data: ")) for event in events]
    assert [answer["index"] for answer in answers] == list(range(1, 21))
    assert "".join(answer["token"]["text"] for answer in answers) == answers[-1]["generated_text"]
    assert "Deep Learning" in answers[-1]["generated_text"]


def test_curl_without_the_header_is_told(shared_server: Serving) -> None:
    command = ["curl", "-s", "-i", f"{shared_server.url}/generate", "-d", '{"inputs":"x"}']
    output = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    assert output.startswith("HTTP/1.1 415 ")
    assert output.endswith("Expected request with `Content-Type: application/json`")
