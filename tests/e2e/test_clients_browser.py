"""The page, its API description and fetch, in a real browser; screenshots lie in build/js."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from . import javascript
from .conftest import ROOM
from .serving import Serving, post, serving, wait_until

KEY = "a key"
ROOT_PATH = "/llm"


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    """A server that wants a key, below a path."""
    javascript.chromium()
    with serving(*ROOM, "--api-key", KEY, "--root-path", ROOT_PATH) as server:
        server.wait_ready()
        yield server


@pytest.fixture(scope="module")
def seen(server: Serving) -> dict[str, Any]:
    """What a person sees who does everything that the page offers."""
    return javascript.run("page.mjs", javascript.chromium(), server.url + ROOT_PATH, KEY)


def test_the_page_needs_nothing_else_and_has_nothing_to_complain_of(seen: dict[str, Any], server: Serving) -> None:
    outside = [url for url in seen["requests"] if not f"{url}/".startswith(f"{server.url}{ROOT_PATH}/")]
    assert [url for url in outside if not url.startswith("data:")] == []
    assert seen["complaints"] == []
    assert seen["unnamed"] == []


def test_it_asks_for_the_key_and_says_what_is_served(seen: dict[str, Any]) -> None:
    assert seen["withoutKey"] == "This server wants an API key."
    assert re.fullmatch(r"\S*SmolLM2\S*, up to 1024 tokens", seen["about"])


def test_one_answer_grows_while_the_other_is_waited_for(seen: dict[str, Any]) -> None:
    assert seen["whileStreaming"] == [0, False]
    assert seen["texts"][0] == seen["texts"][1]
    assert "Deep Learning" in seen["texts"][0]
    (first, rate, total), (other_first, other_rate, other_total) = (
        [float(number.removesuffix(" ms")) for number in numbers] for numbers in seen["numbers"]
    )
    assert first < total
    assert other_first == pytest.approx(other_total, abs=1000)
    assert first < other_first
    assert rate == pytest.approx(40 / total * 1000, rel=0.01)
    assert other_rate == pytest.approx(40 / other_total * 1000, rel=0.01)


def test_an_answer_that_its_limit_cuts_says_so(seen: dict[str, Any]) -> None:
    assert seen["notes"] == ["cut off after 40 tokens, the most allowed"] * 2
    assert all("cut off after 12 tokens" in text for text in seen["chat"][1::2])
    assert seen["interrupted"].startswith("stopped; ")
    assert seen["narrowNotes"] == ["stopped", "stopped"]


def test_axe_finds_no_fault(seen: dict[str, Any]) -> None:
    assert (seen["faults"], seen["chatFaults"], seen["narrowFaults"]) == ([], [], [])


def test_answers_are_read_when_they_are_complete(seen: dict[str, Any]) -> None:
    assert seen["live"] == [["polite", "false"], ["polite", "false"], ["polite", None]]


def test_an_answer_can_be_copied(seen: dict[str, Any]) -> None:
    text, button = seen["copied"]
    assert (text != "", button) == (True, "Copied")
    assert seen["chat"][1].startswith(text + "cut off")
    assert seen["secure"] is False
    assert seen["plainCopy"] == ["Copied", "Copied"]
    assert seen["pasted"][0] == seen["pasted"][1] != ""


def test_turns_alternate_whatever_becomes_of_a_request(seen: dict[str, Any]) -> None:
    assert seen["waiting"] == ["Another one.", "Sent when this answer is over; Esc stops it.", 3]
    assert seen["waitedFor"] == ["", "", [*["user", "assistant"] * 3, "user"]]
    assert seen["refused"] == ["Once more.", 10]
    assert seen["afterwards"] == [*["user", "assistant"] * 5, "user"]


def test_tokens_are_coloured_by_probability(seen: dict[str, Any]) -> None:
    assert len(seen["colours"]) > 5
    assert seen["noColours"] == ["rgba(0, 0, 0, 0)"]
    assert re.fullmatch(r"\d+\.\d %", seen["title"])


def test_both_panes_draw_the_same(seen: dict[str, Any]) -> None:
    assert seen["sampled"][0] == seen["sampled"][1] != ""


def test_a_refusal_is_shown_in_the_servers_words(seen: dict[str, Any]) -> None:
    assert seen["refusal"] == "Input validation error: `temperature` must be strictly positive"


@pytest.mark.usefixtures("seen")
def test_escape_stops_and_frees_the_sequences(seen: dict[str, Any], server: Serving) -> None:
    tokens, error = seen["stopped"]
    assert 0 < tokens < 900
    assert error == ""
    stopped = 2 + 2 + 1  # two comparisons and a chat
    wait_until(lambda: server.output.count("outcome=dropped") == stopped, "all requests were dropped")


def test_a_conversation(seen: dict[str, Any]) -> None:
    assert seen["tabs"] == [True, False]
    first, answer, second, other_answer = seen["chat"]
    assert (first, second) == ("Who are you?", "What did I ask?")
    assert all("tokens per second" in text for text in (answer, other_answer))
    assert seen["cleared"] == 0


def test_wide_and_narrow_screens(seen: dict[str, Any]) -> None:
    left, right = seen["wide"]
    assert left == right
    narrow = seen["narrow"]
    assert narrow["overflow"] == 0
    assert narrow["inView"] == [True, True]
    assert max(map(int, re.findall(r"\d+", narrow["back"]))) < 64  # dark


def test_the_description_of_the_api(seen: dict[str, Any]) -> None:
    assert seen["docs"]["operations"] > 10
    assert {"inputs", "parameters", "max_new_tokens", "temperature", "stop"} <= set(seen["docs"]["fields"])
    assert seen["docs"]["status"].startswith("200")
    assert '"max_total_tokens": 1024' in seen["docs"]["body"]


def test_files_of_swagger_ui_are_those_of_its_package() -> None:
    package = javascript.install() / "node_modules" / "swagger-ui-dist"
    vendored = javascript.ROOT / "api" / "web" / "static" / "swagger-ui"
    ours = {"README.md"}
    for file in vendored.iterdir():
        assert file.name in ours or file.read_bytes() == (package / file.name).read_bytes(), file
    version = json.loads((package / "package.json").read_text())["version"]
    assert (vendored / "README.md").read_text().startswith(f"# Swagger UI {version}\n")


def test_fetch_from_another_origin_and_a_lost_connection(seen: dict[str, Any], server: Serving) -> None:
    events = seen["fetch"]["text"].removesuffix("\n\n").split("\n\n")
    assert seen["fetch"]["lost"] < 60
    assert [event.splitlines()[0] for event in events] == [f"id: {number}" for number in range(1, 61)]
    body = {"inputs": "What is Deep Learning?", "parameters": {"max_new_tokens": 60}}
    with post(f"{server.url}/generate", body, {"Authorization": f"Bearer {KEY}"}) as response:
        whole = json.load(response)
    last = json.loads(events[-1].splitlines()[1].removeprefix("data: "))
    assert last["generated_text"] == whole["generated_text"]
