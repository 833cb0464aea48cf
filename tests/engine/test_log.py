"""The one log of all processes, in processes of its own: it changes hooks of the interpreter."""

import json
import re
import subprocess
import sys
from typing import Any

import pytest

KEYS = ["timestamp", "level", "message", "target", "pid"]
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
BEFORE = """
import logging, sys, threading, warnings
library = logging.getLogger("library")
library.addHandler(logging.StreamHandler())
library.propagate = False
from headwater.engine.log import adopt_loggers, configure_logging, logger
configure_logging(json_output={json_output})
"""


def run(program: str, json_output: bool = True) -> "subprocess.CompletedProcess[str]":
    source = BEFORE.format(json_output=json_output) + program
    return subprocess.run([sys.executable, "-P", "-c", source], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("program", "target", "level", "word"),
    [
        ("logger.info('a\\nb %s', 'é\\udcff')", "headwater", "INFO", "a\nb é\udcff"),
        ("logging.getLogger('headwater.api').info('x', extra={'route': '/'})", "headwater.api", "INFO", "x"),
        ("library.warning('x')", "library", "WARNING", "x"),
        ("library.info('no')\nlibrary.setLevel(10)\nlibrary.info('no')\nlibrary.error('x')", "library", "ERROR", "x"),
        ("warnings.warn('old', UserWarning)", "py.warnings", "WARNING", "UserWarning: old"),
        ("raise ValueError('x')", "headwater", "CRITICAL", "uncaught exception"),
        ("threading.Thread(target=lambda: 1 / 0).start()", "headwater", "CRITICAL", "uncaught exception"),
        ("class A:\n  def __del__(self): 1 / 0\nA()", "headwater", "CRITICAL", "uncaught exception"),
    ],
)
def test_whatever_is_told_is_one_json_object_of_the_same_form(program: str, target: str, level: str, word: str) -> None:
    ended = run(program)
    assert ended.stderr == ""
    (line,) = ended.stdout.splitlines()
    found: dict[str, Any] = json.loads(line)
    assert list(found)[: len(KEYS)] == KEYS
    assert TIMESTAMP.fullmatch(found["timestamp"])
    assert (found["target"], found["level"]) == (target, level)
    assert word in found["message"]
    assert ("Error: " in found.get("exception", "")) == (level == "CRITICAL")
    assert set(found) - set(KEYS) <= {"exception", "route"}
    assert found["pid"] > 0


def test_a_library_that_is_imported_later_is_taken_over_too() -> None:
    later = "late = logging.getLogger('late'); late.addHandler(logging.StreamHandler()); late.propagate = False\n"
    ended = run(later + "adopt_loggers()\nlate.warning('x')")
    assert (json.loads(ended.stdout)["target"], ended.stderr) == ("late", "")


def test_text_is_one_form_too() -> None:
    ended = run("logger.info('x')\nlibrary.warning('y')", json_output=False)
    assert ended.stderr == ""
    first, second = ended.stdout.splitlines()
    assert re.fullmatch(TIMESTAMP.pattern + " INFO headwater: x", first)
    assert re.fullmatch(TIMESTAMP.pattern + " WARNING library: y", second)


def test_a_line_that_cannot_be_written_ends_nothing() -> None:
    assert run("sys.stdout.close()\nlogger.info('x')\nsys.exit(3)").returncode == 3
