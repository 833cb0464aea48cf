"""What happens around a request: clients that go, engines that die, more requests than permits, the end."""

import http.client
import json
import os
import signal
import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import OverloadedError

from headwater.api.server import address_of
from headwater.engine.messages import Submit

from .conftest import DEADLINE_S, ApiServer, byte_ids, read_event, read_events, run_api_server, wait_until

OVERLOADED = {"error": "Model is overloaded", "error_type": "overloaded"}


def begin(server: ApiServer, path: str = "/generate_stream") -> tuple[http.client.HTTPConnection, Submit]:
    connection = server.begin(path, {"inputs": "x"})
    return connection, server.peer.submitted()


def cut(connection: http.client.HTTPConnection, how: str) -> None:
    assert connection.sock is not None
    match how:
        case "close":
            connection.sock.shutdown(socket.SHUT_RDWR)
        case "reset":
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        case "half-close":
            connection.sock.shutdown(socket.SHUT_WR)
            return
    connection.sock.close()
    connection.close()


# Clients that go


@pytest.mark.parametrize("how", ["close", "reset", "half-close"])
@pytest.mark.parametrize("path", ["/generate_stream", "/generate"])
def test_a_client_that_goes_before_the_first_token_frees_its_sequence(server: ApiServer, path: str, how: str) -> None:
    dropped = server.metric('tgi_request_failure{err="dropped"}')
    connection, submit = begin(server, path)
    cut(connection, how)
    assert server.peer.aborted().request_id == submit.request_id
    wait_until(lambda: server.metric('tgi_request_failure{err="dropped"}') == dropped + 1, "counted as dropped")


@pytest.mark.parametrize("how", ["close", "reset", "half-close"])
def test_a_client_that_goes_in_the_middle_frees_its_sequence_and_its_permit(server: ApiServer, how: str) -> None:
    for _ in range(5):  # more than there are permits
        connection, submit = begin(server)
        server.peer.send(submit.request_id, byte_ids("a"))
        response = connection.getresponse()
        read_event(response)
        response.close()
        cut(connection, how)
        assert server.peer.aborted().request_id == submit.request_id


def test_a_connection_is_used_again_after_a_stream(server: ApiServer) -> None:
    connection = server.connect()
    for text in ("a", "b"):
        connection.request("POST", "/generate_stream", b'{"inputs":"x"}', {"content-type": "application/json"})
        submit = server.peer.submitted()
        server.peer.send(submit.request_id, byte_ids(text), "length")
        assert read_events(connection.getresponse())[-1]["generated_text"] == text
    assert server.peer.inbox.empty()  # nothing was aborted at the end of a response


# Too many requests


def hold_all_permits(server: ApiServer, count: int) -> list[tuple[http.client.HTTPConnection, Submit]]:
    return [begin(server) for _ in range(count)]


def end_all(server: ApiServer, held: list[tuple[http.client.HTTPConnection, Submit]]) -> None:
    for connection, submit in held:
        server.peer.send(submit.request_id, byte_ids("a"), "length")
        assert read_events(connection.getresponse())[-1]["generated_text"] == "a"


@pytest.mark.parametrize("path", ["/generate", "/generate_stream", "/"])
def test_over_the_limit_is_429_and_other_routes_still_answer(server: ApiServer, path: str) -> None:
    held = hold_all_permits(server, 4)
    # 429 comes before 422, but after what is no request at all.
    response, data = server.request("POST", path, {"inputs": "", "stream": True})
    assert (response.status, json.loads(data), response.getheader("retry-after")) == (429, OVERLOADED, "1")
    assert server.request("POST", path, b"{}")[0].status == 422
    assert server.request("GET", "/health")[0].status == 200
    assert server.metric('tgi_request_failure{err="overloaded"}') > 0
    end_all(server, held)
    end_all(server, hold_all_permits(server, 4))


@pytest.mark.parametrize("stream", [False, True])
def test_huggingface_hub_calls_it_overloaded(server: ApiServer, stream: bool) -> None:
    held = hold_all_permits(server, 4)
    client = InferenceClient(f"http://127.0.0.1:{server.port}")
    with pytest.raises(OverloadedError, match="Model is overloaded"):
        list(client.text_generation("x", stream=stream))
    end_all(server, held)


def test_two_workers_share_one_limit_and_one_set_of_metrics(tmp_path: Path, model_dir: Path) -> None:
    with run_api_server(tmp_path, model_dir, api_workers=2, max_concurrent_requests=6) as server:
        held = hold_by_connection(server, 6)
        assert len({sock for _, _, sock in held}) == 2, "both workers got some"
        for _ in range(8):
            response, data = server.request("POST", "/generate", {"inputs": "x"})
            assert (response.status, json.loads(data)) == (429, OVERLOADED)
        assert server.metric('tgi_request_failure{err="overloaded"}') == 8
        for connection, submit, sock in held:
            server.peer.senders[submit.request_id] = sock
            server.peer.send(submit.request_id, byte_ids("a"), "length")
            assert read_events(connection.getresponse())[-1]["generated_text"] == "a"
        wait_until(lambda: server.metric("tgi_request_success") == 6, "all are counted")


def hold_by_connection(server: ApiServer, count: int) -> list[tuple[http.client.HTTPConnection, Submit, socket.socket]]:
    """Running requests on several workers: with the socket of each, as request ids repeat. Both workers get one."""
    held: list[tuple[http.client.HTTPConnection, Submit, socket.socket]] = []
    while len(held) < count:
        connection = server.begin("/generate_stream", {"inputs": "x"})
        sock, submit = server.peer.inbox.get(timeout=DEADLINE_S)
        assert isinstance(submit, Submit)
        if len(held) == count - 1 and {s for _, _, s in held} == {sock}:
            cut(connection, "close")  # the kernel chooses the worker: try again until the other one has one, too
            server.peer.aborted()
            continue
        held.append((connection, submit, sock))
    return held


# Engines that die


def test_streams_and_answers_go_on_in_the_next_engine(server: ApiServer) -> None:
    streaming, streamed = begin(server)
    server.peer.send(streamed.request_id, byte_ids("a"))
    response = streaming.getresponse()
    event = read_event(response)
    waiting, waited = begin(server, "/generate_stream")
    whole, answered = begin(server, "/generate")

    server.peer.die()
    wait_until(lambda: server.request("GET", "/health")[0].status == 503, "the loss is noticed")
    health, data = server.request("GET", "/health")
    assert health.getheader("content-type") == "application/json"
    assert json.loads(data) == {"error": "unhealthy", "error_type": "healthcheck"}
    assert health.getheader("x-unhealthy-reason") == "the engine is away: it is starting again"
    live, data = server.request("GET", "/health/live")
    facts = json.loads(data)
    assert (live.status, facts["ready"], facts["engine"]["process"]["connected"]) == (200, False, False)
    # What needs no engine still answers, with what is known of it.
    assert server.request("GET", "/info")[0].status == 200
    assert server.request("GET", "/metrics")[0].status == 200
    late = server.begin("/generate", {"inputs": "x"})  # waits for the next engine
    wait_until(lambda: server.metric("headwater_requests") == 4, "it was accepted")

    server.peer.listen()
    submits = [server.peer.submitted() for _ in range(4)]
    assert [submit.request_id for submit in submits[:3]] == [s.request_id for s in (streamed, waited, answered)]
    assert [submit.emitted_ids for submit in submits] == [byte_ids("a"), [], [], []]
    for submit in submits:
        server.peer.send(submit.request_id, byte_ids("b"), "length")
    events = [json.loads(event.removeprefix(b"data: ")), *read_events(response)]
    assert [event["index"] for event in events] == [1, 2]
    assert events[-1]["generated_text"] == "ab"
    assert read_events(waiting.getresponse())[-1]["generated_text"] == "b"
    assert whole.getresponse().read() == b'{"generated_text":"b"}'
    assert late.getresponse().read() == b'{"generated_text":"b"}'
    assert server.request("GET", "/health")[0].status == 200


def test_a_deadline_runs_while_the_engine_is_away(tmp_path: Path, model_dir: Path) -> None:
    with run_api_server(tmp_path, model_dir, request_timeout=0.5) as server:
        connection, _ = begin(server, "/generate")
        server.peer.die()
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["error_type"]) == (504, "timeout")
        late = server.begin("/generate", {"inputs": "x"})
        assert late.getresponse().status == 504


# Metrics and logs


def test_metrics_have_tgis_names_and_the_engines_numbers(server: ApiServer) -> None:
    before = {name: server.metric(name) for name in ("tgi_request_count", "tgi_request_success")}
    lengths = server.metric("tgi_request_input_length_sum"), server.metric("tgi_request_generated_tokens_sum")
    connection, submit = begin(server, "/generate")
    server.peer.send(submit.request_id, byte_ids("abc"), "length")
    connection.getresponse().read()
    response, data = server.request("GET", "/metrics")
    assert (response.getheader("content-type") or "").startswith("text/plain")
    assert server.metric("tgi_request_count") == before["tgi_request_count"] + 1
    assert server.metric("tgi_request_success") == before["tgi_request_success"] + 1
    assert server.metric("tgi_request_input_length_sum") == lengths[0] + 2
    assert server.metric("tgi_request_generated_tokens_sum") == lengths[1] + 3
    text = data.decode()
    for name in ("", "_validation", "_queue", "_inference", "_mean_time_per_token"):
        assert f"# TYPE tgi_request{name}_duration histogram\n" in text
    assert 'tgi_request_duration_bucket{le="+Inf"}' in text
    assert "# TYPE tgi_request_count counter\n" in text
    stats = {name: server.metric(name) for name in ("tgi_batch_current_size", "tgi_queue_size")}
    assert stats == {"tgi_batch_current_size": 1, "tgi_queue_size": 2}
    assert server.metric("headwater_engine_steps_total") == 7
    assert (server.metric("headwater_engine_pages"), server.metric("headwater_engine_free_pages")) == (99, 98)
    assert server.metric("headwater_engine_prompt_tokens_total") == 300
    assert server.metric("headwater_engine_generated_tokens_total") == 40
    assert server.metric("headwater_engine_aborted_total") == 5
    assert server.metric("headwater_engine_page_usage") == pytest.approx(1 - 98 / 99)
    assert server.metric("tgi_batch_current_max_tokens") == 50
    for name, prefill, decode in (("count", 3, 4), ("success", 2, 4)):
        assert server.metric(f'tgi_batch_inference_{name}{{method="prefill"}}') == prefill
        assert server.metric(f'tgi_batch_inference_{name}{{method="decode"}}') == decode
    # 40 tokens, of which 6 came beside another one: 34 times a sequence got some.
    skipped = server.metric("tgi_request_skipped_tokens_sum"), server.metric("tgi_request_skipped_tokens_count")
    assert skipped == (6, 34)
    assert server.metric("headwater_requests") == 0
    assert server.metric("tgi_batch_next_size_sum") >= 1
    assert 'tgi_batch_inference_duration_bucket{le="+Inf",method="prefill"} ' in text


def test_times_to_tokens_and_prefix_hits_are_counted(server: ApiServer) -> None:
    names = (
        "headwater_time_to_first_token_seconds_count",
        "headwater_inter_token_gap_seconds_count",
        "headwater_request_cached_share_sum",
    )
    before = [server.metric(name) for name in names]
    connection, submit = begin(server)
    server.peer.send(submit.request_id, byte_ids("a"))
    response = connection.getresponse()
    read_event(response)
    for _ in range(2):
        server.peer.send(submit.request_id, byte_ids("b"))
        read_event(response)
    server.peer.send(submit.request_id, byte_ids("c"), "length")
    response.read()
    after = [server.metric(name) for name in names]
    # One of the two prompt tokens was cached, says the engine.
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 3, 0.5]


def test_a_request_is_one_log_line_without_its_text(
    tmp_path: Path, model_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with run_api_server(tmp_path, model_dir, json_output=True) as server:
        connection = server.connect()
        headers = {"content-type": "application/json", "x-request-id": "mine"}
        connection.request("POST", "/generate", b'{"inputs":"secret"}', headers)
        submit = server.peer.submitted()
        server.peer.send(submit.request_id, byte_ids("hidden"), "length")
        assert connection.getresponse().status == 200
    output = "".join(capfd.readouterr())
    assert "secret" not in output
    assert "hidden" not in output
    lines: list[dict[str, Any]] = [json.loads(line) for line in output.splitlines() if "/generate" in line]
    (line,) = lines
    assert (line["id"], line["status"], line["outcome"]) == ("mine", 200, "length")
    assert (line["prompt_tokens"], line["generated_tokens"]) == (7, 6)
    assert line["cached_tokens"] == 1
    assert line["total_ms"] >= line["first_token_ms"] >= line["validation_ms"] >= 0
    assert line["sequences"] == str(submit.request_id)


# The end


@pytest.mark.parametrize("how", ["end of file", "SIGTERM"])
def test_running_responses_finish_and_new_ones_are_refused(tmp_path: Path, model_dir: Path, how: str) -> None:
    with run_api_server(tmp_path, model_dir) as server:
        connection, submit = begin(server)
        server.peer.send(submit.request_id, byte_ids("a"))
        response = connection.getresponse()
        read_event(response)
        if how == "SIGTERM":
            server.process.send_signal(signal.SIGTERM)
        else:
            assert server.process.stdin is not None
            server.process.stdin.close()
        wait_until(lambda: not _accepts(server), "the listener is closed")
        server.peer.send(submit.request_id, byte_ids("b"), "length")
        assert read_events(response)[-1]["generated_text"] == "ab"
        assert server.process.wait(DEADLINE_S) == 0
    assert list(tmp_path.glob("api-*")) == []


def test_running_responses_are_cut_when_their_time_is_over(tmp_path: Path, model_dir: Path) -> None:
    with run_api_server(tmp_path, model_dir, graceful_termination_timeout=1.0) as server:
        connection, submit = begin(server)
        server.peer.send(submit.request_id, byte_ids("a"))
        response = connection.getresponse()
        read_event(response)
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(DEADLINE_S)  # the engine never sends the rest
        with suppress(http.client.IncompleteRead, ConnectionResetError):
            assert b'generated_text":"' not in response.read()


def _accepts(server: ApiServer) -> bool:
    try:
        socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE_S).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.mark.parametrize(
    ("host", "addresses"), [("localhost", {"127.0.0.1", "::1"}), ("0.0.0.0", {"0.0.0.0"}), ("::1", {"::1"})]
)
def test_a_host_may_be_a_name(host: str, addresses: set[str]) -> None:
    assert address_of(host) in addresses


def test_workers_end_when_their_parent_is_killed(tmp_path: Path, model_dir: Path) -> None:
    with run_api_server(tmp_path, model_dir) as server:
        server.process.kill()
        wait_until(lambda: not _accepts(server), "no worker is left")


def test_a_worker_that_is_killed_takes_nobody_with_it(tmp_path: Path, model_dir: Path) -> None:
    """Its connections end, its engine connection too, the other worker's stream goes on, and a new one comes."""
    with run_api_server(tmp_path, model_dir, api_workers=2, max_concurrent_requests=6) as server:
        held = hold_by_connection(server, 4)
        workers = children(server.process.pid)
        assert len(workers) == 2
        victim = held[0][2]
        os.kill(peer_pid(victim), signal.SIGKILL)
        for connection, submit, sock in held:
            if sock is victim:
                with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
                    connection.getresponse()
            else:
                server.peer.senders[submit.request_id] = sock
                server.peer.send(submit.request_id, byte_ids("a"), "length")
                assert read_events(connection.getresponse())[-1]["generated_text"] == "a"
        wait_until(lambda: len(children(server.process.pid) - workers) == 1, "a new worker")
        wait_until(lambda: server.metric("headwater_requests") == 0, "no permit is lost")


def children(pid: int) -> set[int]:
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def peer_pid(sock: socket.socket) -> int:
    pid, _, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(pid)
