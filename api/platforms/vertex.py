"""POST /vertex: what Google's Vertex AI sends, several prompts or conversations, answered by their texts."""

from typing import Any

import msgspec

from ..chat.answer import AnswerReader
from ..chat.blocks import blocks_of
from ..chat.errors import InvalidRequestError
from ..chat.request import ChatRequest
from ..chat.start import start_chat
from ..generation.request import GenerationRequest, open_generation
from ..generation.service import Service
from ..http.connection import Connection
from ..text.grammar import request_grammar
from ..text.text_sequence import SequenceOutput
from ..tgi import validation
from ..tgi.schema import GenerateParameters, GenerateRequest


class VertexRequest(msgspec.Struct):
    """Body of /vertex."""

    instances: list[dict[str, Any]]  # each as a body of /generate or of /v1/chat/completions


class VertexResponse(msgspec.Struct):
    """Texts, one an instance."""

    predictions: list[str]


async def vertex(service: Service, connection: Connection, request: VertexRequest) -> None:
    """One text for each instance. Raises ApiError."""
    if not request.instances:
        raise InvalidRequestError("`instances` cannot be empty", "instances")
    instances = [_instance(instance, index) for index, instance in enumerate(request.instances)]
    with open_generation(service, connection, len(instances)) as generation:
        readers: list[AnswerReader | None] = []
        for instance in instances:
            if isinstance(instance, ChatRequest):
                readers.append(await start_chat(service, generation, instance))
            else:
                await _start_generate(service, generation, instance)
                readers.append(None)
        outputs = await generation.finish()
        texts = [
            _prompt_shown(instance) + _text(output, reader)
            for instance, output, reader in zip(instances, outputs, readers, strict=True)
        ]
        await connection.respond(200, msgspec.json.encode(VertexResponse(texts)), b"application/json")


def _instance(instance: dict[str, Any], index: int) -> ChatRequest | GenerateRequest:
    kind: Any = ChatRequest if "messages" in instance else GenerateRequest
    try:
        request = msgspec.convert(instance, kind, str_keys=True)
    except msgspec.ValidationError as error:
        raise InvalidRequestError(f"instances[{index}]: {error}", "instances") from None
    several = request.n if isinstance(request, ChatRequest) else request.parameters and request.parameters.best_of
    if (several or 1) > 1:
        name = "n" if isinstance(request, ChatRequest) else "best_of"
        raise InvalidRequestError(f"instances[{index}]: `{name}` > 1 is not supported: an instance gets one text", name)
    return request


def _prompt_shown(request: ChatRequest | GenerateRequest) -> str:
    wanted = isinstance(request, GenerateRequest) and request.parameters and request.parameters.return_full_text
    return request.inputs if wanted and isinstance(request, GenerateRequest) else ""


def _text(output: SequenceOutput, reader: AnswerReader | None) -> str:
    """Without thoughts."""
    if reader is None or not reader.reasons:
        return output.sequence.generated_text
    return "".join(block.text for block in blocks_of(reader, output) if block.kind == "text")


async def _start_generate(service: Service, generation: GenerationRequest, request: GenerateRequest) -> None:
    """As TGI: it samples unless told not to."""
    limits, tokenizer = service.limits(), service.tokenizer
    parameters = request.parameters or GenerateParameters()
    if parameters.do_sample is None:
        parameters.do_sample = True
    request.parameters = parameters
    validation.check(request, limits, stream=False)
    generation.schedule(parameters)
    prompt_ids = await tokenizer.encode(request.inputs, parameters.truncate)
    grammar = generation.grammar(request_grammar(parameters.grammar))
    sampling = validation.resolve(parameters, len(prompt_ids), limits, tokenizer.eos_ids, grammar)
    generation.stats.input_characters += len(request.inputs)
    generation.start(prompt_ids, sampling, parameters.stops)
