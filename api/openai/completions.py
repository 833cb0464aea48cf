"""POST /v1/completions: one or more prompts, as text or as tokens, each with one or more choices."""

from statistics import fmean
from typing import cast

import msgspec
from msgspec import Struct

from ...engine.messages import SamplingParams
from ..chat.answer import finish_reason_of
from ..chat.constraints import wanted_grammar
from ..chat.errors import InvalidRequestError
from ..chat.sampling import Checked, check
from ..generation.request import GenerationRequest, open_generation
from ..generation.sender import send_events
from ..generation.service import Service
from ..http.connection import Connection
from ..http.sse import shortest_float32
from ..text.detokenizer import Detokenizer
from ..text.text_sequence import SequenceOutput, TextSequence, Token
from ..text.tokenizer import Tokenizer
from .chat_stream import error_event
from .chunks import Chunks, ResponseInfo, encode, usage_of
from .errors import BatchSizeError, SuffixError
from .logprobs import CompletionLogprobsBuilder
from .schema import Completion, CompletionChoice, CompletionLogprobs, CompletionRequest


async def completions(service: Service, connection: Connection, request: CompletionRequest) -> None:
    """POST /v1/completions: answer or stream, as the request says. Raises ApiError."""
    if request.suffix is not None:
        raise SuffixError
    prompts = _prompts(request)
    most_prompts = service.config.max_client_batch_size or service.config.max_concurrent_requests
    if len(prompts) > most_prompts:
        raise BatchSizeError(most_prompts)
    per_prompt = max(request.n or 1, request.best_of or 1)
    with open_generation(service, connection, len(prompts) * per_prompt) as generation:
        completion = _Completion(service, generation, request)
        await completion.start(prompts, per_prompt)
        if request.stream:
            await completion.stream()
        else:
            await completion.answer()


def _prompts(request: CompletionRequest) -> list[str] | list[list[int]]:
    """The prompts, all texts or all token ids. Raises InvalidRequestError."""
    given = request.prompt
    if isinstance(given, str):
        given = [given]
    if not given:
        raise InvalidRequestError("`prompt` cannot be an empty array", "prompt")
    if all(isinstance(one, int) for one in given):
        return [cast("list[int]", given)]
    if all(isinstance(one, str) for one in given) or all(isinstance(one, list) for one in given):
        return cast("list[str] | list[list[int]]", given)
    raise InvalidRequestError("`prompt` mixes texts and tokens", "prompt")


class _Prompt(Struct):
    """One prompt and its sequences."""

    text: str  # what ``echo`` shows
    ids: list[int]
    sequences: list[TextSequence]


class _Completion:
    """One request, from its prompts to the last byte of the answer."""

    def __init__(self, service: Service, generation: GenerationRequest, request: CompletionRequest) -> None:
        self._service = service
        self._generation = generation
        # Nothing is to be generated: the prompt is scored. The engine needs a token to write for that.
        self._only_scores = bool(request.echo) and 0 in (request.max_tokens, request.max_completion_tokens)
        if self._only_scores:
            request = msgspec.structs.replace(request, max_tokens=1, max_completion_tokens=None, ignore_eos=True)
        self._request = request
        self._info = ResponseInfo(service, "cmpl", request.model)
        self._prompts: list[_Prompt] = []
        self._builders: dict[int, CompletionLogprobsBuilder] = {}  # by choice

    async def start(self, prompts: list[str] | list[list[int]], per_prompt: int) -> None:
        """Check, tokenise, submit. Raises ApiError.

        Args:
            per_prompt: sequences of each prompt, of which the best are shown.
        """
        service, request = self._service, self._request
        limits, tokenizer = service.limits(), service.tokenizer
        self._generation.schedule(request)
        grammar = self._generation.grammar(wanted_grammar(request))
        checked = check(request, limits, tokenizer.eos_ids, grammar, request.logprobs or 0)
        if per_prompt > checked.choices and request.stream:
            raise InvalidRequestError("`best_of` > `n` cannot be streamed", "best_of")
        if per_prompt > max(checked.choices, limits.max_best_of):
            raise InvalidRequestError(f"`best_of` must be <= {limits.max_best_of}. Given: {per_prompt}", "best_of")
        for given in prompts:
            prompt = await self._tokenised(given, limits.vocab_size)
            self._generation.stats.input_characters += len(prompt.text)
            self._prompts.append(prompt)
        # All are checked before the first is started.
        parameters = [self._sampling(checked, prompt) for prompt in self._prompts]
        for prompt, sampling in zip(self._prompts, parameters, strict=True):
            prompt.sequences = self._generation.start(
                prompt.ids,
                sampling,
                () if self._only_scores else checked.stops,
                count=per_prompt,
                keep_stop=False,
                only_scores=self._only_scores,
            )

    async def _tokenised(self, given: str | list[int], vocab_size: int) -> _Prompt:
        tokenizer = self._service.tokenizer
        if isinstance(given, str):
            if not given:
                raise InvalidRequestError("`prompt` cannot be empty", "prompt")
            return _Prompt(given, await tokenizer.encode(given), [])
        if not given:
            raise InvalidRequestError("`prompt` cannot be empty", "prompt")
        if max(given) >= vocab_size:
            raise InvalidRequestError(f"`prompt` token ids must be < {vocab_size}. Given: {max(given)}", "prompt")
        return _Prompt(tokenizer.decode(given), given, [])

    def _sampling(self, checked: Checked, prompt: _Prompt) -> SamplingParams:
        sampling = checked.for_prompt(len(prompt.ids), self._service.limits())
        wants_prompt = bool(self._request.echo) and self._request.logprobs is not None
        top = self._request.logprobs or 0
        return msgspec.structs.replace(sampling, prompt_logprobs=wants_prompt, prompt_top_n=top if wants_prompt else 0)

    async def answer(self) -> None:
        """Generate all, then answer. Raises ApiError."""
        service, generation, info = self._service, self._generation, self._info
        output = await generation.finish()
        shown = self._request.n or 1
        choices: list[CompletionChoice] = []
        for prompt in self._prompts:
            for one in _best([output[sequence.index] for sequence in prompt.sequences], shown):
                choices.append(self._choice(len(choices), one, prompt))
        body = Completion(
            info.id,
            "text_completion",
            info.created,
            info.model,
            info.system_fingerprint,
            choices,
            usage_of(generation),
        )
        headers = [(b"x-compute-type", service.compute_type), *generation.stats.headers()]
        await generation.connection.respond(200, encode(body), b"application/json", headers)

    def _choice(self, index: int, output: SequenceOutput, prompt: _Prompt) -> CompletionChoice:
        logprobs = None
        if self._request.logprobs is not None:
            front = self._prompt_logprobs(output.sequence, prompt) if self._request.echo else None
            logprobs = self._logprobs(output, 0, len(output.tokens))
            if front is not None:
                logprobs = _joined(front, logprobs)
        text = (prompt.text if self._request.echo else "") + output.sequence.generated_text
        return CompletionChoice(index, text, logprobs, finish_reason_of(output.sequence))

    async def stream(self) -> None:
        """Send each token as it comes. Raises ApiError; a stream that has begun tells it in an event."""
        generation = self._generation
        head = self._info.head("text_completion")
        chunks = Chunks(generation, head, self._request.stream_options, b'"text":')
        with_logprobs = self._request.logprobs is not None
        echo = bool(self._request.echo)
        prompt_of = {sequence.index: prompt for prompt in self._prompts for sequence in prompt.sequences}
        begun: set[int] = set()

        def events(output: list[SequenceOutput]) -> bytes:
            parts = []
            for one in output:
                if echo and one.sequence.index not in begun:
                    begun.add(one.sequence.index)
                    parts.append(self._echo_event(one.sequence, prompt_of[one.sequence.index], chunks))
                parts.append(self._events(one, chunks) if with_logprobs else _plain(one, chunks))
            return b"".join(parts)

        headers = [
            (b"x-compute-type", self._service.compute_type),
            (b"x-compute-characters", b"%d" % generation.stats.input_characters),
        ]
        await send_events(generation, events, error_event, headers, chunks.closing)

    def _echo_event(self, sequence: TextSequence, prompt: _Prompt, chunks: Chunks) -> bytes:
        if self._request.logprobs is None:
            return chunks.text(sequence.index, prompt.text)
        logprobs = encode(self._prompt_logprobs(sequence, prompt))
        return chunks.choice(sequence.index, chunks.text_field(prompt.text), logprobs)

    def _events(self, output: SequenceOutput, chunks: Chunks) -> bytes:
        sequence, last = output.sequence, len(output.texts) - 1
        finish_reason = finish_reason_of(sequence)
        return b"".join(
            [
                chunks.choice(
                    sequence.index,
                    chunks.text_field(text),
                    encode(self._logprobs(output, position, position + 1)),
                    finish_reason if position == last else None,
                )
                for position, text in enumerate(output.texts)
            ]
        )

    def _logprobs(self, output: SequenceOutput, start: int, stop: int) -> CompletionLogprobs:
        return self._builder(output.sequence).tokens(output, start, min(stop, len(output.tokens)))

    def _prompt_logprobs(self, sequence: TextSequence, prompt: _Prompt) -> CompletionLogprobs:
        scores = sequence.remote.prompt_scores
        tokens = _prompt_tokens(self._service.tokenizer, prompt.ids, scores.logprobs)
        best = [
            [sequence.token(token_id, logprob) for token_id, logprob in zip(ids, logprobs, strict=True)]
            for ids, logprobs in zip(scores.top_ids, scores.top_logprobs, strict=True)
        ]
        return self._builder(sequence).prompt(tokens, best)

    def _builder(self, sequence: TextSequence) -> CompletionLogprobsBuilder:
        return self._builders.setdefault(
            sequence.index, CompletionLogprobsBuilder(self._request.logprobs or 0, self._service.tokenizer)
        )


def _plain(output: SequenceOutput, chunks: Chunks) -> bytes:
    """Nothing but text; the finish reason goes with the last piece."""
    sequence, texts = output.sequence, output.texts
    if sequence.finish_reason is None:
        return b"".join([chunks.text(sequence.index, text) for text in texts if text])
    events = [chunks.text(sequence.index, text) for text in texts[:-1] if text]
    events.append(chunks.choice(sequence.index, chunks.text_field(texts[-1]), finish_reason=finish_reason_of(sequence)))
    return b"".join(events)


def _best(sequences: list[SequenceOutput], count: int) -> list[SequenceOutput]:
    """Those with the highest mean logprob, best first; all of them in their own order."""
    if count >= len(sequences):
        return sequences
    return sorted(sequences, key=lambda one: -fmean(token.logprob or 0.0 for token in one.tokens))[:count]


def _prompt_tokens(tokenizer: Tokenizer, ids: list[int], logprobs: list[float]) -> list[Token]:
    """The tokens of a prompt, each with its text in its place; the first has no logprob."""
    detokenizer = Detokenizer(tokenizer, [])
    known = [None, *map(shortest_float32, logprobs)]
    return [
        Token(token_id, detokenizer.feed(token_id), logprob, token_id in tokenizer.special_tokens)
        for token_id, logprob in zip(ids, known, strict=True)
    ]


def _joined(first: CompletionLogprobs, then: CompletionLogprobs) -> CompletionLogprobs:
    best = None if then.top_logprobs is None else [*(first.top_logprobs or ()), *then.top_logprobs]
    return CompletionLogprobs(
        first.tokens + then.tokens,
        first.token_logprobs + then.token_logprobs,
        best,
        first.text_offset + then.text_offset,
    )
