"""What hosting platforms send: SageMaker's /invocations and Google's /vertex (contract.md 1.7 and 1.8)."""

from typing import Any

import msgspec

from ..generation.request import GenerationRequest, open_generation
from ..http.connection import Connection
from ..http.errors import TransportError
from ..http.json_errors import json_error
from ..openai.chat import answer_chat, start_chat
from ..openai.completions import answer_completion
from ..openai.errors import InvalidRequestError
from ..openai.schema import ChatRequest, CompletionRequest, VertexRequest, VertexResponse
from ..service import Service
from ..tgi import validation
from ..tgi.generate import answer_compat
from ..tgi.schema import CompatGenerateRequest, GenerateParameters, GenerateRequest

_decode_raw: msgspec.json.Decoder[Any] = msgspec.json.Decoder(msgspec.Raw)
_decode_vertex = msgspec.json.Decoder(VertexRequest)

_NO_VARIANT = "data did not match any variant of untagged enum SagemakerRequest"


class _Keys(msgspec.Struct):
    """Which body it is, by the first of these that is there."""

    inputs: Any = None
    messages: Any = None
    prompt: Any = None


async def invocations(service: Service, connection: Connection) -> None:
    """POST /invocations: a body of POST /, of /v1/chat/completions or of /v1/completions, answered as there."""
    body = bytes(await connection.read_json(_decode_raw, service.config.payload_limit))
    request = _invocation(body)
    if isinstance(request, ChatRequest):
        await answer_chat(service, connection, request)
    elif isinstance(request, CompletionRequest):
        await answer_completion(service, connection, request)
    else:
        await answer_compat(service, connection, request)


def _invocation(body: bytes) -> CompatGenerateRequest | ChatRequest | CompletionRequest:
    try:
        keys = msgspec.json.decode(body, type=_Keys)
        kinds: dict[str, Any] = {
            "inputs": CompatGenerateRequest,
            "messages": ChatRequest,
            "prompt": CompletionRequest,
        }
        for key, kind in kinds.items():
            if getattr(keys, key) is not None:
                return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError:
        pass
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise json_error(error, body) from None
    raise TransportError(422, _NO_VARIANT)


async def vertex(service: Service, connection: Connection) -> None:
    """POST /vertex: several prompts or conversations, answered by their texts."""
    request = await connection.read_json(_decode_vertex, service.config.payload_limit)
    if not request.instances:
        raise InvalidRequestError("`instances` cannot be empty", "instances")
    instances = [_instance(instance, index) for index, instance in enumerate(request.instances)]
    with open_generation(service, connection, len(instances)) as generation:
        for instance in instances:
            if isinstance(instance, ChatRequest):
                await start_chat(service, generation, instance)
            else:
                await _start_generate(service, generation, instance)
        await generation.finish()
        texts = [sequence.generated_text for sequence in generation.sequences]
        await connection.respond(200, msgspec.json.encode(VertexResponse(texts)), b"application/json")


def _instance(instance: dict[str, Any], index: int) -> ChatRequest | GenerateRequest:
    kind: Any = ChatRequest if "messages" in instance else GenerateRequest
    try:
        request = msgspec.convert(instance, kind)
    except msgspec.ValidationError as error:
        raise InvalidRequestError(f"instances[{index}]: {error}", "instances") from None
    if isinstance(request, ChatRequest):
        request.n = 1  # one text an instance
    return request


async def _start_generate(service: Service, generation: GenerationRequest, request: GenerateRequest) -> None:
    """As TGI: it samples unless told not to."""
    limits, tokenizer = service.limits(), service.tokenizer
    parameters = request.parameters or GenerateParameters()
    if parameters.do_sample is None:
        parameters.do_sample = True
    request.parameters = parameters
    parameters.best_of = None
    validation.check(request, limits, stream=False)
    prompt_ids = await tokenizer.encode(request.inputs, parameters.truncate)
    sampling = validation.resolve(parameters, len(prompt_ids), limits, tokenizer.eos_ids)
    generation.stats.input_characters += len(request.inputs)
    generation.start(prompt_ids, sampling, parameters.stops)
