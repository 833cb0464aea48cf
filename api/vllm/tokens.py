"""vLLM's /tokenize beside TGI's, /detokenize, /tokenizer_info and /version: what evaluation harnesses ask for."""

from typing import Any

import msgspec
from msgspec import Struct

from ..chat.conversation import prompt_of
from ..chat.errors import InvalidRequestError
from ..chat.tools.choice import tools_of
from ..generation.service import Service
from ..http.connection import Connection
from ..http.errors import ValidationError
from ..http.json_body import convert_json
from ..tgi import generate as tgi
from ..tgi.schema import GenerateRequest
from .schema import (
    DetokenizeRequest,
    DetokenizeResponse,
    TokenizeChatRequest,
    TokenizePromptRequest,
    TokenizeResponse,
    Version,
)


async def tokenize(service: Service, connection: Connection, body: Any) -> None:
    """POST /tokenize: TGI's list for ``inputs``, vLLM's ids for ``prompt`` or ``messages``. Raises ApiError."""
    fields = body if isinstance(body, dict) else {}
    if fields.get("inputs") is None and fields.get("prompt") is not None:
        request = convert_json(body, TokenizePromptRequest)
        special = request.add_special_tokens is not False
        await _answer_ids(service, connection, request.prompt, special, request.return_token_strs)
    elif fields.get("inputs") is None and fields.get("messages") is not None:
        await _tokenize_chat(service, connection, convert_json(body, TokenizeChatRequest))
    else:
        await tgi.tokenize(service, connection, convert_json(body, GenerateRequest))


async def _tokenize_chat(service: Service, connection: Connection, request: TokenizeChatRequest) -> None:
    if request.chat_template is not None:
        raise InvalidRequestError("`chat_template` is not supported: the model's own is used", "chat_template")
    prompt = await prompt_of(request, tools_of(request), service.chat_templates)
    special = bool(request.add_special_tokens)
    await _answer_ids(service, connection, prompt.text, special, request.return_token_strs)


async def _answer_ids(
    service: Service, connection: Connection, text: str, add_special_tokens: bool, with_texts: bool | None
) -> None:
    tokenizer = service.tokenizer
    ids = await tokenizer.encode(text, add_special_tokens=add_special_tokens)
    spelled = await tokenizer.spellings(ids) if with_texts else None
    await _respond(connection, TokenizeResponse(len(ids), service.limits().max_total_tokens, ids, spelled))


async def detokenize(service: Service, connection: Connection, request: DetokenizeRequest) -> None:
    """POST /detokenize: the text of token ids. Raises ValidationError for one that the model does not have."""
    size = service.limits().vocab_size
    if request.tokens and max(request.tokens) >= size:
        raise ValidationError(f"`tokens` must be < {size}. Given: {max(request.tokens)}")
    await _respond(connection, DetokenizeResponse(await service.tokenizer.text(request.tokens)))


async def tokenizer_info(service: Service, connection: Connection) -> None:
    """GET /tokenizer_info: tokenizer_config.json, with the chat template and the end token that are used."""
    known = dict(service.chat_templates.tokenizer_config)
    tokenizer = service.tokenizer
    known.setdefault("tokenizer_class", "PreTrainedTokenizerFast")
    known.setdefault("eos_token", tokenizer.special_tokens[tokenizer.eos_ids[0]] if tokenizer.eos_ids else None)
    if (template := service.chat_templates.choose(with_tools=False)) is not None:
        known["chat_template"] = template.template.source
    await connection.respond(200, msgspec.json.encode(known), b"application/json")


async def version(service: Service, connection: Connection) -> None:
    """GET /version."""
    await _respond(connection, Version(service.config.version))


async def _respond(connection: Connection, answer: Struct) -> None:
    await connection.respond(200, msgspec.json.encode(answer), b"application/json")
