"""What hosting platforms send: SageMaker's /invocations and Google's /vertex (contract.md 1.7 and 1.8)."""

from typing import Any

import msgspec

from .. import validation
from ..errors import TransportError
from ..exchange import Exchange
from ..job import Job, open_job
from ..json_errors import json_error
from ..routes_native import answer_compat
from ..schema import CompatGenerateRequest, GenerateParameters, GenerateRequest
from ..service import Service
from .chat import answer_chat, start_chat
from .completions import answer_completion
from .errors import InvalidRequestError
from .schema import ChatRequest, CompletionRequest, VertexRequest, VertexResponse

_decode_raw: msgspec.json.Decoder[Any] = msgspec.json.Decoder(msgspec.Raw)
_decode_vertex = msgspec.json.Decoder(VertexRequest)

_NO_VARIANT = "data did not match any variant of untagged enum SagemakerRequest"


class _Keys(msgspec.Struct):
    """Which body it is, by the first of these that is there."""

    inputs: Any = None
    messages: Any = None
    prompt: Any = None


async def invocations(service: Service, exchange: Exchange) -> None:
    """POST /invocations: a body of POST /, of /v1/chat/completions or of /v1/completions, answered as there."""
    body = bytes(await exchange.read_json(_decode_raw, service.config.payload_limit))
    request = _invocation(body)
    if isinstance(request, ChatRequest):
        await answer_chat(service, exchange, request)
    elif isinstance(request, CompletionRequest):
        await answer_completion(service, exchange, request)
    else:
        await answer_compat(service, exchange, request)


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


async def vertex(service: Service, exchange: Exchange) -> None:
    """POST /vertex: several prompts or conversations, answered by their texts."""
    request = await exchange.read_json(_decode_vertex, service.config.payload_limit)
    if not request.instances:
        raise InvalidRequestError("`instances` cannot be empty", "instances")
    instances = [_instance(instance, index) for index, instance in enumerate(request.instances)]
    with open_job(service, exchange, len(instances)) as job:
        for instance in instances:
            if isinstance(instance, ChatRequest):
                await start_chat(service, job, instance)
            else:
                await _start_generate(service, job, instance)
        await job.finish()
        texts = [stream.generated_text for stream in job.streams]
        await exchange.respond(200, msgspec.json.encode(VertexResponse(texts)), b"application/json")


def _instance(instance: dict[str, Any], index: int) -> ChatRequest | GenerateRequest:
    kind: Any = ChatRequest if "messages" in instance else GenerateRequest
    try:
        request = msgspec.convert(instance, kind)
    except msgspec.ValidationError as error:
        raise InvalidRequestError(f"instances[{index}]: {error}", "instances") from None
    if isinstance(request, ChatRequest):
        request.n = 1  # one text an instance
    return request


async def _start_generate(service: Service, job: Job, request: GenerateRequest) -> None:
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
    job.record.input_characters += len(request.inputs)
    job.start(prompt_ids, sampling, parameters.stops)
