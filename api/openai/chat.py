"""POST /v1/chat/completions, and /chat_tokenize, which stops where the model would begin."""

from msgspec import UNSET

from ..generation.request import GenerationRequest, open_generation
from ..generation.service import Service
from ..http.connection import Connection
from ..text.text_sequence import SequenceOutput
from ..text.token_list import token_list
from ..text.tokenizer import Tokenizer
from .chat_stream import stream_chat
from .chunks import ResponseInfo, encode, finish_reason_of, usage_of
from .constraints import wanted_grammar
from .conversation import prompt_of
from .errors import InvalidRequestError
from .logprobs import chat_logprobs
from .sampling import check
from .schema import (
    ChatChoice,
    ChatCompletion,
    ChatLogprobs,
    ChatMessage,
    ChatRequest,
    ChatTokenizeResponse,
    FunctionCall,
    ToolCall,
)
from .tools.choice import tools_of
from .tools.reader import ToolCallReader


async def chat_completions(service: Service, connection: Connection, request: ChatRequest) -> None:
    """POST /v1/chat/completions: answer or stream, as the request says. Raises ApiError."""
    with open_generation(service, connection, max(request.n or 1, 1)) as generation:
        reader = await start_chat(service, generation, request)
        info = ResponseInfo(service, "chatcmpl", request.model)
        if request.stream:
            await stream_chat(service, generation, request, info, reader)
            return
        choices = [chat_choice(output, request, reader, service.tokenizer) for output in await generation.finish()]
        body = encode(
            ChatCompletion(
                info.id,
                "chat.completion",
                info.created,
                info.model,
                info.system_fingerprint,
                choices,
                usage_of(generation),
            )
        )
        headers = [(b"x-compute-type", service.compute_type), *generation.stats.headers()]
        await connection.respond(200, body, b"application/json", headers)


async def chat_tokenize(service: Service, connection: Connection, request: ChatRequest) -> None:
    """POST /chat_tokenize: the prompt of a conversation, and its tokens. Raises ApiError."""
    prompt = await prompt_of(request, tools_of(request), service.chat_templates)
    tokens = await token_list(service.tokenizer, prompt.text, add_special_tokens=False)
    await connection.respond(200, encode(ChatTokenizeResponse(tokens, prompt.text)), b"application/json")


async def start_chat(service: Service, generation: GenerationRequest, request: ChatRequest) -> ToolCallReader | None:
    """Check, render, submit. Returns what finds calls in the answers, None if there are no tools. Raises ApiError."""
    tools = tools_of(request)
    wanted = wanted_grammar(request)
    if request.top_logprobs and request.logprobs is None:
        raise InvalidRequestError("`top_logprobs` needs `logprobs: true`", "top_logprobs")
    prompt = await prompt_of(request, tools, service.chat_templates)
    generation.stats.input_characters = len(prompt.text)
    limits, tokenizer = service.limits(), service.tokenizer
    reader = None
    if tools is not None:
        reader = ToolCallReader(tools, prompt.tool_format)
        wanted = tools.grammar(prompt.tool_format, tokenizer, wanted)
    grammar = generation.grammar(wanted)
    checked = check(request, limits, tokenizer.eos_ids, grammar, request.top_logprobs or 0)
    prompt_ids = await tokenizer.encode(prompt.text, add_special_tokens=False)
    sampling = checked.for_prompt(len(prompt_ids), limits)
    generation.start(prompt_ids, sampling, checked.stops, count=checked.choices, keep_stop=False)
    return reader


def chat_choice(
    output: SequenceOutput, request: ChatRequest, reader: ToolCallReader | None, tokenizer: Tokenizer
) -> ChatChoice:
    """One whole answer."""
    sequence = output.sequence
    if reader is None:
        message = ChatMessage("assistant", sequence.generated_text)
    else:
        text: list[str] = []
        calls: list[ToolCall] = []
        arguments: list[list[str]] = []
        for part in reader.read(output):
            for found in part:
                text.append(found.text)
                if found.name is not None:
                    calls.append(ToolCall(reader.new_id(), "function", FunctionCall(found.name)))
                    arguments.append([])
                elif found.arguments:
                    arguments[-1].append(found.arguments)
        for call, pieces in zip(calls, arguments, strict=True):
            call.function.arguments = "".join(pieces)
        content = "".join(text)
        message = ChatMessage("assistant", content or (None if calls else ""), calls or UNSET)
    logprobs = None
    if request.logprobs:
        logprobs = ChatLogprobs(chat_logprobs(output, 0, len(output.tokens), request.top_logprobs or 0, tokenizer))
    finish_reason = finish_reason_of(sequence) if reader is None else reader.finish_reason(sequence)
    assert finish_reason is not None, "the generation is done"
    return ChatChoice(sequence.index, message, logprobs, finish_reason)
