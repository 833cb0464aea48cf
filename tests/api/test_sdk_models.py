"""Every answer and event is of the types of OpenAI's and Anthropic's own packages, whatever a model writes."""

import random
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from headwater.engine.messages import Submit

from ..e2e.sdk_models import check, requests
from .chat.servers import thinker
from .conftest import ApiServer, byte_ids

__all__ = ["thinker"]

EOS = 257
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo", "days": 3}}\n</tool_call>'
ANSWERS = (
    "<think>\nhm, 1 < 2\n</think>\n\nTen. " + CALL, "<think>never clo", CALL + "\n" + CALL, "Ten: é🌍\u2028.", "",
    '{"city": "Rome"}', "<tool_call>\n{bad}</tool_call>", "<think></think>" + CALL[:60], "\ud7ff \xff",
)  # fmt: skip


class Answering(threading.Thread):
    """Plays an engine that answers each sequence with one of the texts, in steps of some tokens."""

    def __init__(self, server: ApiServer) -> None:
        super().__init__(daemon=True)
        self._peer = server.peer
        self._chance = random.Random(1)
        self.failure: BaseException | None = None

    def run(self) -> None:
        while True:
            connection, message = self._peer.inbox.get()
            if message is None:
                return
            if isinstance(message, Submit):
                self._peer.senders[message.request_id] = connection
                with suppress(OSError):
                    self._answer(message)

    def _answer(self, submit: Submit) -> None:
        sampling = submit.sampling
        ids = [*byte_ids(self._chance.choice(ANSWERS)), EOS]
        cut = len(ids) > sampling.max_new_tokens
        ids = ids[: sampling.max_new_tokens]
        top = [(65, -0.25), (66, -3.0)][: sampling.top_n] or None
        scores = [-1.0] * (len(submit.prompt_ids) - 1) if sampling.prompt_logprobs else None
        best = [(65, -0.25)] if sampling.prompt_top_n else None
        step = self._chance.choice((1, 3, 50))
        for at in range(0, len(ids), step):
            finish = ("length" if cut else "eos_token") if at + step >= len(ids) else None
            self._peer.send(
                submit.request_id, ids[at : at + step], finish, top=top, prompt_logprobs=scores, prompt_top=best
            )
            scores = best = None


@pytest.fixture
def answering(thinker: ApiServer) -> Iterator[ApiServer]:
    thread = Answering(thinker)
    thread.start()
    yield thinker
    thinker.peer.inbox.put((None, None))  # type: ignore[arg-type]
    thread.join()


def test_every_answer_and_event_is_one_of_the_packages_own_types(answering: ApiServer) -> None:
    kinds = {check(f"http://127.0.0.1:{answering.port}", path, body) for path, body in requests(48)}
    assert len(kinds) >= 12  # whole, streamed and refused, of every route
