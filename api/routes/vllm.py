"""vLLM's routes."""

from typing import Any

from ..http.error_body import OpenAIErrorResponse
from ..http.routing import Route
from ..vllm.adapters import load_adapter, unload_adapter
from ..vllm.schema import DetokenizeRequest, DetokenizeResponse, LoadAdapterRequest, UnloadAdapterRequest, Version
from ..vllm.tokens import detokenize, tokenizer_info, version

_TAG = "vLLM"
VLLM_ROUTES: tuple[Route, ...] = (
    Route(
        method="POST",
        path="/v1/load_lora_adapter",
        handler=load_adapter,
        request=LoadAdapterRequest,
        example={"lora_name": "sql", "lora_path": "/data/adapters/sql"},
        media_types=("text/plain",),
        errors=(400, 424),
        error=OpenAIErrorResponse,
        tag=_TAG,
        summary="Load an adapter (LoRA), which requests may name from then on",
        description="`lora_path` is a directory that PEFT wrote, where the server runs. Needs `--max-loras`.",
    ),
    Route(
        method="POST",
        path="/v1/unload_lora_adapter",
        handler=unload_adapter,
        request=UnloadAdapterRequest,
        example={"lora_name": "sql"},
        media_types=("text/plain",),
        errors=(404, 424),
        error=OpenAIErrorResponse,
        tag=_TAG,
        summary="Forget an adapter",
        description="No request may name it from then on; those that did get the rest of their tokens.",
    ),
    Route(
        method="POST",
        path="/detokenize",
        handler=detokenize,
        request=DetokenizeRequest,
        example={"tokens": [1780, 314, 12584, 5663, 47]},
        response=DetokenizeResponse,
        errors=(422,),
        tag=_TAG,
        summary="The text of tokens",
    ),
    Route(
        method="GET",
        path="/tokenizer_info",
        handler=tokenizer_info,
        response=dict[str, Any],
        tag=_TAG,
        summary="The tokenizer's configuration, with the chat template",
    ),
    Route(method="GET", path="/version", handler=version, response=Version, tag=_TAG, summary="Headwater's version"),
)
