"""lm-eval's tasks through the server: the numbers are those that it gets from transformers itself."""

from pathlib import Path
from typing import Any

import pytest

from headwater.engine.checkpoint.convert import convert
from headwater.engine.checkpoint.resolve import find_default_gguf

from . import python_clients
from .conftest import ROOM
from .serving import serving

EVALUATE = Path(__file__).with_name("new_clients") / "evaluate.py"


@pytest.fixture(scope="module")
def got(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of the default model in dense weights, which transformers reads."""
    folder = tmp_path_factory.mktemp("evaluation")
    model = folder / "model"
    convert(find_default_gguf(), model)
    with serving(str(model), "--dtype", "float32", *ROOM) as server:
        server.wait_ready()
        return python_clients.run(EVALUATE, server.url, str(model), str(folder))


def answers(got: dict[str, Any], runner: str, task: str) -> Any:
    """Those of a task's requests, by document."""
    return got[runner]["samples"][task]


def test_log_likelihoods_are_those_of_transformers(got: dict[str, Any]) -> None:
    ours, oracle = (answers(got, runner, "local_choices") for runner in ("headwater", "transformers"))
    assert [len(document) for document in ours] == [3, 2, 2, 2]
    for document, expected in zip(ours, oracle, strict=True):
        for ((logprob, likeliest),), ((wanted, wanted_likeliest),) in zip(document, expected, strict=True):
            assert logprob == pytest.approx(wanted, abs=1e-3)
            assert likeliest == wanted_likeliest
    ours, oracle = (answers(got, runner, "local_rolling") for runner in ("headwater", "transformers"))
    assert len(ours) == 4
    for ((logprob,),), ((wanted,),) in zip(ours, oracle, strict=True):
        assert logprob == pytest.approx(wanted, abs=1e-3)


def test_texts_are_those_of_transformers(got: dict[str, Any]) -> None:
    assert answers(got, "headwater", "local_generated") == answers(got, "transformers", "local_generated")


def test_scores_are_those_of_transformers(got: dict[str, Any]) -> None:
    assert got["headwater"]["metrics"] == {
        task: pytest.approx(metrics, abs=1e-4) for task, metrics in got["transformers"]["metrics"].items()
    }
    assert got["headwater"]["metrics"]["local_choices"]["acc_norm,none"] == 1
