"""POST /v1/chat/completions, and /chat_tokenize, which stops where the model would begin."""

from msgspec import UNSET

from ..chat.answer import AnswerReader
from ..chat.blocks import blocks_of
from ..chat.conversation import prompt_of
from ..chat.request import ChatRequest
from ..chat.start import start_chat
from ..chat.tools.choice import tools_of
from ..generation.request import open_generation
from ..generation.service import Service
from ..http.connection import Connection
from ..text.text_sequence import SequenceOutput
from ..text.token_list import token_list
from ..text.tokenizer import Tokenizer
from .chat_stream import stream_chat
from .chunks import ResponseInfo, encode, usage_of
from .logprobs import chat_logprobs
from .schema import (
    ChatChoice,
    ChatCompletion,
    ChatLogprobs,
    ChatMessage,
    ChatTokenizeResponse,
    FunctionCall,
    ToolCall,
)


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
                usage_of(generation, reader),
            )
        )
        headers = [(b"x-compute-type", service.compute_type), *generation.stats.headers()]
        await connection.respond(200, body, b"application/json", headers)


async def chat_tokenize(service: Service, connection: Connection, request: ChatRequest) -> None:
    """POST /chat_tokenize: the prompt of a conversation, and its tokens. Raises ApiError."""
    prompt = await prompt_of(request, tools_of(request), service.chat_templates)
    tokens = await token_list(service.tokenizer, prompt.text, add_special_tokens=False)
    await connection.respond(200, encode(ChatTokenizeResponse(tokens, prompt.text)), b"application/json")


def chat_choice(output: SequenceOutput, request: ChatRequest, reader: AnswerReader, tokenizer: Tokenizer) -> ChatChoice:
    """One whole answer."""
    sequence = output.sequence
    blocks = blocks_of(reader, output)
    calls = [
        ToolCall(block.id, "function", FunctionCall(block.name, block.text)) for block in blocks if block.kind == "call"
    ]
    content = "".join(block.text for block in blocks if block.kind == "text")
    reasoning = "".join(block.text for block in blocks if block.kind == "reasoning")
    message = ChatMessage("assistant", content or (None if calls or reasoning else ""), calls or UNSET)
    if reasoning:
        message.reasoning_content = message.reasoning = reasoning
    logprobs = None
    if request.logprobs:
        logprobs = ChatLogprobs(chat_logprobs(output, 0, len(output.tokens), request.top_logprobs or 0, tokenizer))
    finish_reason = reader.finish_reason(sequence)
    assert finish_reason is not None, "the generation is done"
    return ChatChoice(sequence.index, message, logprobs, finish_reason)
