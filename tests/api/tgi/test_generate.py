"""Native routes over HTTP: the real server process, the engine played by the test."""

import http.client
import json
from typing import Any

import pytest

from ..conftest import EOS_TEXT, ApiServer, byte_ids, read_event, read_events

BOS, EOS = 256, 257
DETAILS = {"max_new_tokens": 8, "details": True}


def event(index: int, token_id: int, text: str, special: bool = False) -> dict[str, Any]:
    token = {"id": token_id, "text": text, "logprob": -0.5, "special": special}
    return {"index": index, "token": token, "generated_text": None, "details": None}


def test_a_prompt_becomes_ids_and_parameters(server: ApiServer) -> None:
    parameters = {"max_new_tokens": 3, "temperature": 0.5, "top_k": 9, "top_p": 0.5, "repetition_penalty": 2, "seed": 7}
    connection = server.begin("/generate", {"inputs": "hé", "parameters": parameters})
    submit = server.peer.submitted()
    assert submit.prompt_ids == [BOS, *byte_ids("hé")]
    sampling = submit.sampling
    assert (sampling.max_new_tokens, sampling.greedy, sampling.seed, sampling.stop_token_ids) == (3, False, 7, (EOS,))
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.repetition_penalty) == (0.5, 9, 0.5, 2)
    server.peer.send(submit.request_id, byte_ids("abc"), "length")
    assert connection.getresponse().read() == b'{"generated_text":"abc"}'


def test_a_whole_answer_with_details(server: ApiServer) -> None:
    connection = server.begin("/generate", {"inputs": "x", "parameters": DETAILS, "stream": True})  # ignored here
    submit = server.peer.submitted()
    a, b = byte_ids("ab")
    server.peer.send(submit.request_id, [a])
    server.peer.send(submit.request_id, [b, EOS], "eos_token")
    response = connection.getresponse()
    assert response.read() == (
        b'{"generated_text":"ab","details":{"finish_reason":"eos_token","generated_tokens":3,"seed":null,"prefill":[],'
        b'"tokens":[{"id":%d,"text":"a","logprob":-0.5,"special":false},{"id":%d,"text":"b","logprob":-0.5,'
        b'"special":false},{"id":257,"text":"<|end|>","logprob":-0.5,"special":true}]}}' % (a, b)
    )
    assert response.getheader("content-type") == "application/json"
    assert response.getheader("access-control-allow-origin") == "*"
    assert response.getheader("x-compute-type") == "1-cpu"
    assert response.getheader("x-compute-characters") == "1"
    assert response.getheader("x-prompt-tokens") == "2"
    assert response.getheader("x-generated-tokens") == "3"
    assert response.getheader("x-queue-time") == "250"  # as the engine said
    assert float(response.getheader("x-compute-time", "")) * 1000 >= int(response.getheader("x-total-time", "")) > -1
    for name in ("x-validation-time", "x-inference-time", "x-time-per-token"):
        assert response.getheader(name, "").isdigit()


@pytest.mark.parametrize("path", ["/generate_stream", "/"])
def test_a_stream_to_the_byte(server: ApiServer, path: str) -> None:
    connection = server.begin(path, {"inputs": "x", "parameters": DETAILS, "stream": True})
    submit = server.peer.submitted()
    a, b = byte_ids("ab")
    server.peer.send(submit.request_id, [a], logprob=-0.3400000035762787)
    response = connection.getresponse()
    # The first token is there before the second exists.
    assert read_event(response) == (
        b'data: {"index":1,"token":{"id":%d,"text":"a","logprob":-0.34,"special":false},'
        b'"generated_text":null,"details":null}\n\n' % a
    )
    server.peer.send(submit.request_id, [b], "length", logprob=float("-inf"))
    assert response.read() == (
        b'data: {"index":2,"token":{"id":%d,"text":"b","logprob":null,"special":false},"generated_text":"ab",'
        b'"details":{"finish_reason":"length","generated_tokens":2,"seed":null,"input_length":2}}\n\n' % b
    )
    headers = {name.lower(): value for name, value in response.getheaders()}
    assert headers["content-type"] == "text/event-stream"
    assert headers["cache-control"] == "no-cache"
    assert headers["transfer-encoding"] == "chunked"
    assert headers["x-accel-buffering"] == "no"
    assert headers["x-compute-type"] == "1-cpu"
    assert headers["x-compute-characters"] == "1"
    assert "x-prompt-tokens" not in headers


def test_characters_that_span_tokens_stay_whole(server: ApiServer) -> None:
    connection = server.begin("/generate_stream", {"inputs": "x", "parameters": {"max_new_tokens": 9}})
    submit = server.peer.submitted()
    ids = [*byte_ids("é😀"), byte_ids("日")[0], EOS]
    for token_id in ids[:-1]:
        server.peer.send(submit.request_id, [token_id])
    server.peer.send(submit.request_id, ids[-1:], "eos_token")
    events = read_events(connection.getresponse())
    assert [e["token"]["text"] for e in events] == ["", "é", "", "", "", "😀", "", EOS_TEXT]
    assert [e["index"] for e in events] == list(range(1, 9))
    assert events[-1]["generated_text"] == "é😀"  # what the half of the third character would have been is nowhere


def test_line_separators_are_escaped(server: ApiServer) -> None:
    connection = server.begin("/generate_stream", {"inputs": "x", "parameters": {"max_new_tokens": 9}})
    submit = server.peer.submitted()
    server.peer.send(submit.request_id, byte_ids("\u2028\u2029\u0085"), "length")
    data = connection.getresponse().read()
    assert all(f'"text":"{escaped}"'.encode() in data for escaped in ("\\u2028", "\\u2029", "\\u0085"))
    assert len(data.decode().splitlines()) == 2 * data.count(b"data: ")


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_ends_the_generation_in_the_engine_too(server: ApiServer, stream: bool) -> None:
    parameters = {"max_new_tokens": 20, "stop": ["é!", "zz"], "details": True}
    connection = server.begin("/", {"inputs": "x", "parameters": parameters, "stream": stream})
    submit = server.peer.submitted()
    server.peer.send(submit.request_id, byte_ids("ab"))
    server.peer.send(submit.request_id, byte_ids("é!cd"))
    assert server.peer.aborted().request_id == submit.request_id
    response = connection.getresponse()
    last = read_events(response)[-1] if stream else json.loads(response.read())[0]
    assert last["generated_text"] == "abé!"
    assert (last["details"]["finish_reason"], last["details"]["generated_tokens"]) == ("stop_sequence", 5)


def test_the_compat_route_answers_with_a_list_and_only_the_new_text(server: ApiServer) -> None:
    for stream in (None, False):
        connection = server.begin("/", {"inputs": "x", "parameters": None, "stream": stream})
        submit = server.peer.submitted()
        assert not submit.sampling.greedy
        assert submit.sampling.max_new_tokens == 64 - 2
        server.peer.send(submit.request_id, byte_ids("y"), "length")
        assert connection.getresponse().read() == b'[{"generated_text":"y"}]'


@pytest.mark.parametrize("stream", [False, True])
def test_the_prompt_comes_back_if_asked_for(server: ApiServer, stream: bool) -> None:
    parameters = {"return_full_text": True, "max_new_tokens": 1, "truncate": 1}
    connection = server.begin("/", {"inputs": "prompt ", "parameters": parameters, "stream": stream})
    submit = server.peer.submitted()
    assert submit.prompt_ids == [BOS]
    server.peer.send(submit.request_id, byte_ids("y"), "length")
    response = connection.getresponse()
    answer = read_events(response)[0] if stream else json.loads(response.read())[0]
    assert answer["generated_text"] == "prompt y"


def test_the_seed_that_was_used_is_shown(server: ApiServer) -> None:
    for seed, parameters in ((5, {"seed": 5, "do_sample": True}), (None, {"seed": 5})):
        connection = server.begin("/generate", {"inputs": "x", "parameters": parameters | DETAILS})
        submit = server.peer.submitted()
        server.peer.send(submit.request_id, byte_ids("y"), "length")
        assert json.loads(connection.getresponse().read())["details"]["seed"] == seed


def token(token_id: int, text: str, logprob: float | None, special: bool = False) -> dict[str, Any]:
    return {"id": token_id, "text": text, "logprob": logprob, "special": special}


def test_top_tokens_stand_beside_each_token(server: ApiServer) -> None:
    (a,) = byte_ids("a")
    top = [(a, -0.25), (EOS, float("-inf"))]
    listed = [token(a, "a", -0.25), token(EOS, EOS_TEXT, None, special=True)]
    parameters = {"top_n_tokens": 2, "details": True}
    connection = server.begin("/generate_stream", {"inputs": "x", "parameters": parameters})
    submit = server.peer.submitted()
    assert submit.sampling.top_n == 2
    server.peer.send(submit.request_id, [a, a], "length", top=top)
    for event in read_events(connection.getresponse()):
        assert list(event) == ["index", "token", "top_tokens", "generated_text", "details"]
        assert event["top_tokens"] == listed

    connection = server.begin("/generate", {"inputs": "x", "parameters": parameters})
    submit = server.peer.submitted()
    server.peer.send(submit.request_id, [a, a], "length", top=top)
    details = json.loads(connection.getresponse().read())["details"]
    assert list(details)[-1] == "top_tokens"
    assert details["top_tokens"] == [listed, listed]


def test_the_prompts_tokens_come_back_with_logprobs(server: ApiServer) -> None:
    connection = server.begin("/generate", {"inputs": "hi", "parameters": {"decoder_input_details": True}})
    submit = server.peer.submitted()
    assert submit.sampling.prompt_logprobs
    server.peer.send(submit.request_id, byte_ids("a"), "length", prompt_logprobs=[-1.5, float("-inf")])
    h, i = byte_ids("hi")
    assert json.loads(connection.getresponse().read())["details"]["prefill"] == [
        {"id": BOS, "text": "<|begin|>", "logprob": None},
        {"id": h, "text": "h", "logprob": -1.5},
        {"id": i, "text": "i", "logprob": None},
    ]


def test_the_best_of_several_by_mean_logprob(server: ApiServer) -> None:
    parameters = {"best_of": 2, "do_sample": True, "details": True, "return_full_text": True}
    connection = server.begin("/generate", {"inputs": "x", "parameters": parameters})
    first, second = server.peer.submitted(), server.peer.submitted()
    assert first.prompt_ids == second.prompt_ids
    assert first.sampling.seed != second.sampling.seed < 2**53
    server.peer.send(first.request_id, byte_ids("abc"), "length", logprob=-0.5)
    server.peer.send(second.request_id, [*byte_ids("d"), EOS], "eos_token", logprob=-0.25)
    response = connection.getresponse()
    assert response.getheader("x-prompt-tokens") == "2"  # there is one prompt
    answer = json.loads(response.read())
    details = answer["details"]
    keys = ["finish_reason", "generated_tokens", "seed", "prefill", "tokens"]
    assert list(details) == [*keys, "best_of_sequences"]
    assert (answer["generated_text"], details["seed"]) == ("xd", second.sampling.seed)
    (other,) = details["best_of_sequences"]
    assert list(other) == ["generated_text", *keys]
    assert (other["generated_text"], other["finish_reason"], other["seed"]) == ("xabc", "length", first.sampling.seed)
    assert [t["text"] for t in other["tokens"]] == ["a", "b", "c"]


def test_a_client_that_goes_frees_all_of_its_sequences_and_permits(server: ApiServer) -> None:
    for _ in range(5):
        connection = server.begin("/generate", {"inputs": "x", "parameters": {"best_of": 2, "do_sample": True}})
        submits = {server.peer.submitted().request_id for _ in range(2)}
        assert connection.sock is not None
        connection.sock.close()
        assert {server.peer.aborted().request_id for _ in range(2)} == submits


def test_a_failure_of_one_sequence_drops_the_other(server: ApiServer) -> None:
    connection = server.begin("/generate", {"inputs": "x", "parameters": {"best_of": 2, "do_sample": True}})
    first, second = server.peer.submitted(), server.peer.submitted()
    server.peer.fail(first.request_id, "no", "generation")
    assert connection.getresponse().status == 424
    assert server.peer.aborted().request_id == second.request_id


def test_stop_may_be_one_string(server: ApiServer) -> None:
    connection = server.begin("/generate", {"inputs": "x", "parameters": {"stop": "b"}})
    submit = server.peer.submitted()
    server.peer.send(submit.request_id, byte_ids("abc"))
    assert server.peer.aborted().request_id == submit.request_id
    assert connection.getresponse().read() == b'{"generated_text":"ab"}'


@pytest.mark.parametrize("extra", [{}, {"parameters": {"truncate": 1}}])  # which changes nothing, as in TGI
def test_tokenize_counts_bytes(server: ApiServer, extra: dict[str, Any]) -> None:
    response, data = server.request("POST", "/tokenize", {"inputs": "aé", **extra})
    a, first, second = byte_ids("aé")
    assert (response.status, response.getheader("content-type")) == (200, "application/json")
    # A byte of a character has the whole character's place.
    expected = (
        f'[{{"id":256,"text":"","start":0,"stop":0}},{{"id":{a},"text":"a","start":0,"stop":1}},'
        f'{{"id":{first},"text":"é","start":1,"stop":3}},{{"id":{second},"text":"é","start":1,"stop":3}}]'
    )
    assert data.decode() == expected


def test_a_long_text_is_tokenized_beside_the_loop(server: ApiServer) -> None:
    _, data = server.request("POST", "/tokenize", {"inputs": "é" * 5000})
    last = json.loads(data)[-1]
    assert (last["text"], last["start"], last["stop"]) == ("é", 9998, 10000)


# Errors


def failure(response: http.client.HTTPResponse) -> tuple[int, str | None, Any]:
    return response.status, response.getheader("content-type"), json.loads(response.read())


@pytest.mark.parametrize("path", ["/generate", "/generate_stream", "/"])
def test_a_refusal_is_a_real_status_on_every_route(server: ApiServer, path: str) -> None:
    body = {"inputs": "x", "parameters": {"temperature": 0}, "stream": True}
    error = "Input validation error: `temperature` must be strictly positive"
    expected = (422, "application/json", {"error": error, "error_type": "validation"})
    assert failure(server.begin(path, body).getresponse()) == expected


def test_a_prompt_that_is_too_long(server: ApiServer) -> None:
    error = "`inputs` tokens + `max_new_tokens` must be <= 64. Given: 8001 `inputs` tokens and 0 `max_new_tokens`"
    assert failure(server.begin("/generate_stream", {"inputs": "é" * 4000}).getresponse()) == (
        422,
        "application/json",
        {"error": f"Input validation error: {error}", "error_type": "validation"},
    )


@pytest.mark.parametrize("path", ["/generate", "/generate_stream"])
def test_what_the_engine_refuses_before_the_first_token_is_a_real_status(server: ApiServer, path: str) -> None:
    for error_type, status, text in (
        ("validation", 422, "Input validation error: no"),
        ("generation", 424, "Request failed during generation: Server error: no"),
        ("overloaded", 429, "Model is overloaded"),
        ("timeout", 504, "Request timed out"),
    ):
        connection = server.begin(path, {"inputs": "x"})
        submit = server.peer.submitted()
        server.peer.fail(submit.request_id, "no", error_type)
        assert failure(connection.getresponse()) == (
            status,
            "application/json",
            {"error": text, "error_type": error_type},
        )


def test_an_end_without_a_token_is_a_failure(server: ApiServer) -> None:
    connection = server.begin("/generate", {"inputs": "x"})
    server.peer.send(server.peer.submitted().request_id, [], "length")
    assert connection.getresponse().status == 424


def test_a_failure_after_the_first_token_is_the_last_event(server: ApiServer) -> None:
    connection = server.begin("/generate_stream", {"inputs": "x"})
    submit = server.peer.submitted()
    (a,) = byte_ids("a")
    server.peer.send(submit.request_id, [a])
    response = connection.getresponse()
    read_event(response)
    server.peer.fail(submit.request_id, "out of luck", "generation")
    assert response.read() == (
        b'data: {"error":"Request failed during generation: Server error: out of luck","error_type":"generation"}\n\n'
    )


@pytest.mark.parametrize(
    ("fields", "agent"),
    [({"normalize": True}, "curl"), ({"prompt_name": "query"}, "curl"), ({"dimensions": 8}, "curl"),
     ({}, "unknown/None; hf_hub/2.1.0; python/3.11.7")],
)  # fmt: skip
def test_who_wants_features_is_told(server: ApiServer, fields: dict[str, Any], agent: str) -> None:
    headers = {"content-type": "application/json", "user-agent": agent}
    response, data = server.request("POST", "/", {"inputs": "x"} | fields, headers)
    assert response.status == 422
    assert "needs a model of another kind" in json.loads(data)["error"]
