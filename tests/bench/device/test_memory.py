"""A card's memory is divided by what an engine took in a trial: on a recorded device, with a model of an allocator."""

import pytest

from headwater.bench.offline.roofline import DEVICE_BYTES, copied_bytes

from .test_dry_run import run

LAYERS = 2
# Beside the weights as much as an 8B model in bfloat16 leaves on a card of 24 GiB, which has 30 layers more.
GIB = 24 - (32 - LAYERS) * 0.406

DIVIDE = f"""
import json
from headwater.bench.device.dry_run.memory import divide
from headwater.engine.checkpoint.errors import ModelError
from headwater.engine.cuda import errors_as_advice
from headwater.engine import limits

limits._graph_rows = lambda most: (8, most)  # fewer graphs, for time
found = {{}}

def start(name, gib={GIB}, **settings):
    try:
        with errors_as_advice("a model"):
            division = divide("llama-3.1-8b", 90, int(gib * 2**30), {LAYERS}, **settings)
    except ModelError as error:
        found[name] = {{"error": str(error)}}
        return 0
    pages, reasons = division.limits.num_pages, " ".join(division.limits.reasons)
    found[name] = division._asdict() | {{"limits": None, "pages": pages, "reasons": reasons}}
    return pages

start("default")
few = {{"max_batch_size": 16, "max_batch_prefill_tokens": 256}}
pages = start("card", **few)
start("a quarter less", **few, cuda_memory_fraction=0.75)
start("after one of fewer pages", **few, num_pages=pages - 100)
start("after one of more pages", **few, num_pages=pages + 100)
start("too small for a step", {GIB} - 8.5, **few)
start("too small for a page", {GIB} - 8.18, **few)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def starts() -> dict:
    return run(DIVIDE)


@pytest.mark.parametrize("name", ["default", "card"])
def test_the_largest_step_fits_beside_the_cache(starts, name):
    card = starts[name]
    assert card["left"] >= 250 << 20  # what is left free on purpose, but for rounding
    assert card["left"] < 300 << 20  # and no more: the rest is cache
    assert "what the largest step leaves" in card["reasons"]


def test_a_tenth_of_what_the_weights_leave_would_not_have_been_enough(starts):
    assert starts["default"]["step"] > 0.1 * (starts["default"]["total"] - starts["default"]["weights"])


def test_a_fraction_of_the_memory_is_all_that_is_taken(starts):
    less = starts["card"]["cache"] - starts["a quarter less"]["cache"]
    assert abs(less - 0.25 * starts["card"]["total"]) < 8 << 20


def test_an_engine_that_follows_another_takes_as_many_pages_if_they_fit(starts):
    pages = starts["card"]["pages"]
    assert starts["after one of fewer pages"]["pages"] == pages - 100
    # Somebody else took memory meanwhile: what fits now, instead of the same failure again and again.
    assert starts["after one of more pages"]["pages"] == pages


def test_the_roof_of_a_bench_is_measured_in_what_an_engine_leaves():
    assert 100 << 20 <= 2 * copied_bytes(256 << 20) <= 256 << 20  # and is more than an H100's L2 holds
    assert copied_bytes(40 << 30) == DEVICE_BYTES


def test_a_card_that_is_too_small_is_refused_with_what_to_do(starts):
    step, page = (starts[f"too small for a {what}"]["error"] for what in ("step", "page"))
    assert "memory is full" in step
    assert "the largest step leave" in page
    assert all("--quantize" in error for error in (step, page))
