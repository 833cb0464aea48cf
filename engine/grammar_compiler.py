"""Grammars compiled beside the steps: by threads of their own, once each, within limits."""

import os
import queue
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from pathlib import Path

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from .checkpoint.end_tokens import end_token_ids
from .checkpoint.tokenizer_file import read_tokenizer
from .grammar import GrammarError, Matcher, Vocabulary, reason
from .messages import Grammar

# Of the text. Recursion over it is what could overflow a stack, so they bound its depth, too: see _STACK_BYTES.
MAX_TEXT_BYTES = {"json_schema": 128 << 10, "regex": 16 << 10, "lark": 32 << 10}
COMPILE_LIMIT_S = 10.0  # llguidance's limits end the slowest found within 2 s
MAX_CACHED = 64  # grammars
_THREADS = 2
_NICENESS = 10  # of those threads: a compile takes nothing from the steps while these want the cores
# Of those threads, address space only. Chains of references recurse: 3000 of them overflow the usual 8 MiB, and one
# entry of a chain takes at least 12 bytes of Lark or 28 of JSON.
_STACK_BYTES = 512 << 20
# Items and fuel of a step bound a mask at about 20 ms, and a schema with 1500 optional fields still passes. 20 000
# lexer states took 6 MB.
_LIMITS = LLParserLimits(
    max_items_in_row=2000, step_max_items=20_000, step_lexer_fuel=100_000, initial_lexer_fuel=1_000_000,
    max_lexer_states=50_000, verbose_errors=False,
)  # fmt: skip
# At most one space between the parts of a JSON text, as in TGI: small models else write line feeds without end.
_WHITESPACE = "[ ]?"


class Compiled:
    """A grammar ready for use, shared by the sequences that have it."""

    def __init__(self, state: LLMatcher, vocabulary: Vocabulary) -> None:
        self._state = state
        self._vocabulary = vocabulary

    def matcher(self, stop_token_ids: tuple[int, ...], emitted_ids: Sequence[int] = ()) -> Matcher:
        """The state of a sequence that has generated ``emitted_ids`` already (1 us each)."""
        matcher = Matcher(self._state.deep_copy(), self._vocabulary, stop_token_ids)
        for token_id in emitted_ids:
            matcher.advance(token_id)
        return matcher


class GrammarCompiler:
    """The grammars of one model."""

    def __init__(self, model_dir: Path, vocab_size: int, compile_limit_s: float = COMPILE_LIMIT_S) -> None:
        """Starts to read the tokenizer in the background; a model without one refuses grammars.

        Args:
            model_dir: with tokenizer.json, and what says how a text ends.
            vocab_size: of the logits; may be larger than the tokenizer's, whose ids alone are ever allowed.
            compile_limit_s: after that a grammar is refused.
        """
        self._compile_limit_s = compile_limit_s
        self._vocab_size = vocab_size
        self._cache: OrderedDict[Grammar, Future[Compiled]] = OrderedDict()
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._vocabulary: Future[Vocabulary] = Future()
        self._jobs.put(lambda: _settle(self._vocabulary, lambda: read_vocabulary(model_dir, vocab_size)))
        before = threading.stack_size(_STACK_BYTES)
        for index in range(_THREADS):
            threading.Thread(target=self._work, name=f"grammar {index}", daemon=True).start()
        threading.stack_size(before)

    def submit(self, grammar: Grammar, wake: Callable[[], None] = lambda: None) -> "Future[Compiled]":
        """Compile, or find it compiled. The future's exception is a GrammarError.

        Args:
            wake: called once when the future is done, by another thread or, if it is done already, at once.
        """
        future = self._cache.get(grammar)
        if future is None or (future.done() and future.exception() is not None):  # it may have been the time limit
            future = self._cache[grammar] = Future()
            self._jobs.put(lambda: self._compile(grammar, future))
        self._cache.move_to_end(grammar)
        while len(self._cache) > MAX_CACHED:
            self._cache.popitem(last=False)
        future.add_done_callback(lambda _: wake())
        return future

    def close(self) -> None:
        """End the threads once they have done what was submitted."""
        for _ in range(_THREADS):
            self._jobs.put(None)

    def _work(self) -> None:
        if sys.platform == "linux":  # elsewhere it would be the niceness of the process
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        while (job := self._jobs.get()) is not None:
            job()

    def _compile(self, grammar: Grammar, future: "Future[Compiled]") -> None:
        limit_s = self._compile_limit_s
        too_long = GrammarError(f"grammar: compiling it took longer than {limit_s:g} s")
        try:
            vocabulary = self._vocabulary.result()
        except GrammarError as error:
            future.set_exception(error)
            return
        timer = threading.Timer(limit_s, lambda: _settle(future, lambda: _raise(too_long)))
        timer.daemon = True
        timer.start()
        _settle(future, lambda: compile_grammar(grammar, vocabulary))
        timer.cancel()


def compile_grammar(grammar: Grammar, vocabulary: Vocabulary) -> Compiled:
    """Compile a grammar and compute its first mask, which fails for those that no step could bear.

    Raises GrammarError.
    """
    size, most = len(grammar.text.encode()), MAX_TEXT_BYTES[grammar.kind]
    if size > most:
        raise GrammarError(f"grammar: {size} bytes of {grammar.kind}, {most} is the most")
    try:
        if grammar.kind == "json_schema":
            text = LLMatcher.grammar_from_json_schema(grammar.text, defaults={"whitespace_pattern": _WHITESPACE})
        elif grammar.kind == "regex":
            text = LLMatcher.grammar_from_regex(grammar.text)
        else:
            text = LLMatcher.grammar_from_lark(grammar.text)
    except ValueError as error:
        raise GrammarError(f"grammar: {reason(str(error))}") from error
    state = LLMatcher(vocabulary.tokenizer, text, log_level=0, limits=_LIMITS)
    if state.is_error():
        raise GrammarError(f"grammar: {reason(state.get_error())}")
    first = Matcher(state.deep_copy(), vocabulary, vocabulary.eos_ids)
    first.allow(np.zeros(-(-vocabulary.tokenizer.vocab_size // 32), np.int32))
    if first.error is not None:
        raise GrammarError(first.error)
    return Compiled(state, vocabulary)


def read_vocabulary(model_dir: Path, vocab_size: int) -> Vocabulary:
    """llguidance's view of a model's tokenizer: 0.3 s for 49 000 tokens. Raises GrammarError."""
    path = model_dir / "tokenizer.json"
    try:
        tokenizer = read_tokenizer(path)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        eos_ids = end_token_ids(model_dir, tokenizer)
        if not eos_ids:
            raise ValueError("no end-of-sequence token is known")
        num_tokens = 1 + max(tokenizer.get_vocab().values())
        ours = LLTokenizer(tokenizer.to_str(), n_vocab=vocab_size, eos_token=list(eos_ids))
    except Exception as error:  # tokenizers raises no narrower type
        raise GrammarError(f"this model has no tokenizer that grammars work with: {reason(str(error))}") from error
    return Vocabulary(ours, num_tokens, eos_ids)


def _settle(future: Future, make: Callable[[], object]) -> None:
    """Give a future its value or exception, unless the time limit came first."""
    try:
        value, error = make(), None
    except Exception as raised:  # goes to whoever waits for the future
        value, error = None, raised
    try:
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)
    except InvalidStateError:
        pass


def _raise(error: Exception) -> None:
    raise error
