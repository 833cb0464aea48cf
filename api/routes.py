"""Every route: method, path, who answers it, and what goes in and comes out.

App finds handlers, methods (405) and protection (401) here, and OpenAPI, logs and traces what a route is called.
"""

from typing import Any

from .anthropic.messages import count_tokens, messages
from .anthropic.schema import CountTokensRequest, MessageResponse, MessagesRequest, StreamEvent, TokenCount
from .chat.request import ChatRequest
from .engine_client.health import Liveness
from .http.error_body import AnthropicErrorResponse, OpenAIErrorResponse
from .http.routing import Parameter, Route
from .openai.chat import chat_completions, chat_tokenize
from .openai.completions import completions
from .openai.models import model, models
from .openai.responses import schema as responses
from .openai.responses.create import create_response
from .openai.responses.lifecycle import cancel_response, delete_response, get_response
from .openai.schema import (
    ChatChunk,
    ChatCompletion,
    ChatTokenizeResponse,
    Completion,
    CompletionRequest,
    Model,
    ModelList,
)
from .platforms.sagemaker import invocations
from .platforms.vertex import VertexRequest, VertexResponse, vertex
from .resume.reconnect import resume
from .text.token_list import SimpleToken
from .tgi.generate import compat_generate, generate, generate_stream
from .tgi.info import health, info, live, metrics
from .tgi.schema import CompatGenerateRequest, GenerateRequest, GenerateResponse, Info, StreamResponse
from .vllm.adapters import load_adapter, unload_adapter
from .vllm.schema import (
    DetokenizeRequest,
    DetokenizeResponse,
    LoadAdapterRequest,
    TokenizeChatRequest,
    TokenizePromptRequest,
    TokenizeResponse,
    UnloadAdapterRequest,
    Version,
)
from .vllm.tokens import detokenize, tokenize, tokenizer_info, version
from .web.docs import docs, openapi, to_docs
from .web.page import asset, root
from .web.static_files import ASSETS

_GENERATION_ERRORS = (422, 424, 429, 504)
_TGI, _OPENAI, _ANTHROPIC, _VLLM = "Text generation", "OpenAI", "Anthropic", "vLLM"
_PLATFORMS, _SERVER = "Platforms", "Server"
_TGI_STREAM = (
    "Each event is `data: ` and one line of JSON; the last has `generated_text`. "
    "What fails after the first token is an event, too."
)
_OPENAI_STREAM = (
    "Each event is `data: ` and one line of JSON; `data: [DONE]` is the last. "
    "What fails after the first token is an event with an `error`."
)
_PROMPT = {"inputs": "What is Deep Learning?", "parameters": {"max_new_tokens": 20}}
_CHAT = {"messages": [{"role": "user", "content": "What is Deep Learning?"}], "max_tokens": 20}
_MESSAGES = {"model": "default", "messages": _CHAT["messages"]}
_RESUMABLE = Parameter(
    name="X-Stream-Resumable",
    place="header",
    pattern="^1$",
    description="`1`: a stream's answer bears an `X-Stream-Id`, and who lost the connection goes on at `/streams/`.",
)

_TGI_ROUTES = (
    Route(
        method="POST",
        path="/",
        handler=compat_generate,
        request=CompatGenerateRequest,
        example=_PROMPT,
        response=list[GenerateResponse],
        event=StreamResponse,
        errors=_GENERATION_ERRORS,
        parameters=(_RESUMABLE,),
        tag=_TGI,
        summary="Generate; `stream` in the body says how to answer",
        description=_TGI_STREAM,
    ),
    Route(
        method="POST",
        path="/generate",
        handler=generate,
        request=GenerateRequest,
        example=_PROMPT,
        response=GenerateResponse,
        errors=_GENERATION_ERRORS,
        tag=_TGI,
        summary="Generate, then answer",
    ),
    Route(
        method="POST",
        path="/generate_stream",
        handler=generate_stream,
        request=GenerateRequest,
        example=_PROMPT,
        event=StreamResponse,
        errors=_GENERATION_ERRORS,
        parameters=(_RESUMABLE,),
        tag=_TGI,
        summary="Generate, and send each token as it comes",
        description=_TGI_STREAM,
    ),
    Route(
        method="POST",
        path="/tokenize",
        handler=tokenize,
        request=(GenerateRequest, TokenizePromptRequest, TokenizeChatRequest),
        example=_PROMPT,
        response=list[SimpleToken] | TokenizeResponse,
        errors=(422,),
        tag=_TGI,
        summary="The tokens of a text or of a conversation",
        description="`inputs` is TGI's form, whose `start` and `stop` count bytes of UTF-8; "
        "`prompt` and `messages` are vLLM's, answered with ids.",
    ),
    Route(
        method="POST",
        path="/chat_tokenize",
        handler=chat_tokenize,
        request=ChatRequest,
        example=_CHAT,
        response=ChatTokenizeResponse,
        errors=(422,),
        tag=_TGI,
        summary="The prompt of a conversation, and its tokens",
        description="`start` and `stop` count bytes of UTF-8.",
    ),
)

_OPENAI_ROUTES = (
    Route(
        method="POST",
        path="/v1/chat/completions",
        handler=chat_completions,
        request=ChatRequest,
        example=_CHAT,
        response=ChatCompletion,
        event=ChatChunk,
        errors=_GENERATION_ERRORS,
        error=OpenAIErrorResponse,
        parameters=(_RESUMABLE,),
        tag=_OPENAI,
        summary="Go on with a conversation",
        description=_OPENAI_STREAM,
    ),
    Route(
        method="POST",
        path="/v1/completions",
        handler=completions,
        request=CompletionRequest,
        example={"prompt": "What is Deep Learning?", "max_tokens": 20},
        response=Completion,
        event=Completion,
        errors=_GENERATION_ERRORS,
        error=OpenAIErrorResponse,
        parameters=(_RESUMABLE,),
        tag=_OPENAI,
        summary="Go on with a text",
        description=_OPENAI_STREAM,
    ),
    Route(
        method="GET",
        path="/v1/models",
        handler=models,
        response=ModelList,
        error=OpenAIErrorResponse,
        tag=_OPENAI,
        summary="The model that is served, and its adapters",
    ),
    Route(
        method="GET",
        path="/v1/models/{id}",
        handler=model,
        response=Model,
        errors=(404,),
        error=OpenAIErrorResponse,
        parameters=(Parameter(name="id", place="path", description="Of the model; it may have slashes."),),
        tag=_OPENAI,
        summary="The model or adapter of that name, if it is served",
    ),
)

_RESPONSE_ID = Parameter(name="id", place="path", description="Of a response that was kept.")
_RESPONSES_ROUTES = (
    Route(
        method="POST",
        path="/v1/responses",
        handler=create_response,
        request=responses.ResponsesRequest,
        example={"input": "What is Deep Learning?", "max_output_tokens": 20},
        response=responses.Response,
        event=responses.StreamEvent,
        errors=(404, *_GENERATION_ERRORS),
        error=OpenAIErrorResponse,
        parameters=(_RESUMABLE,),
        tag=_OPENAI,
        summary="Answer items, after a response before if one is named",
        description="Each event has its type as its name, too, and a number. "
        "A response with `background` goes on without its client, which may come back for it.",
    ),
    Route(
        method="GET",
        path="/v1/responses/{id}",
        handler=get_response,
        response=responses.Response,
        event=responses.StreamEvent,
        errors=(404, 422, 429),
        error=OpenAIErrorResponse,
        parameters=(
            _RESPONSE_ID,
            Parameter(name="stream", place="query", description="`true`: its events; of one with `background`."),
            Parameter(
                name="starting_after",
                place="query",
                pattern=r"^[0-9]{1,18}$",
                description="`sequence_number` of the last event that came; all events without it.",
            ),
        ),
        tag=_OPENAI,
        summary="A response as it is now, or its events",
    ),
    Route(
        method="DELETE",
        path="/v1/responses/{id}",
        handler=delete_response,
        response=responses.DeletedResponse,
        errors=(404,),
        error=OpenAIErrorResponse,
        parameters=(_RESPONSE_ID,),
        tag=_OPENAI,
        summary="Forget a response",
    ),
    Route(
        method="POST",
        path="/v1/responses/{id}/cancel",
        handler=cancel_response,
        response=responses.Response,
        errors=(404, 413, 422),
        error=OpenAIErrorResponse,
        parameters=(_RESPONSE_ID,),
        tag=_OPENAI,
        summary="End a response with `background`",
    ),
)

_ANTHROPIC_ROUTES = (
    Route(
        method="POST",
        path="/v1/messages",
        handler=messages,
        request=MessagesRequest,
        example=_MESSAGES | {"max_tokens": 20},
        response=MessageResponse,
        event=StreamEvent,
        errors=_GENERATION_ERRORS,
        error=AnthropicErrorResponse,
        parameters=(_RESUMABLE,),
        tag=_ANTHROPIC,
        summary="Go on with a conversation",
        description="Each event has its type as its name, too. What fails after the first token is an event `error`.",
    ),
    Route(
        method="POST",
        path="/v1/messages/count_tokens",
        handler=count_tokens,
        request=CountTokensRequest,
        example=_MESSAGES,
        response=TokenCount,
        errors=(422,),
        error=AnthropicErrorResponse,
        tag=_ANTHROPIC,
        summary="How many tokens the prompt of a conversation has",
    ),
)

_VLLM_ROUTES = (
    Route(
        method="POST",
        path="/v1/load_lora_adapter",
        handler=load_adapter,
        request=LoadAdapterRequest,
        example={"lora_name": "sql", "lora_path": "/data/adapters/sql"},
        media_types=("text/plain",),
        errors=(400, 424),
        error=OpenAIErrorResponse,
        tag=_VLLM,
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
        tag=_VLLM,
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
        tag=_VLLM,
        summary="The text of tokens",
    ),
    Route(
        method="GET",
        path="/tokenizer_info",
        handler=tokenizer_info,
        response=dict[str, Any],
        tag=_VLLM,
        summary="The tokenizer's configuration, with the chat template",
    ),
    Route(method="GET", path="/version", handler=version, response=Version, tag=_VLLM, summary="Headwater's version"),
)

_PLATFORM_ROUTES = (
    Route(
        method="POST",
        path="/invocations",
        handler=invocations,
        request=(CompatGenerateRequest, ChatRequest, CompletionRequest),
        example=_PROMPT,
        response=dict[str, Any] | list[Any],
        event=dict[str, Any],
        errors=_GENERATION_ERRORS,
        parameters=(_RESUMABLE,),
        tag=_PLATFORMS,
        summary="SageMaker: a body of POST /, /v1/chat/completions or /v1/completions, answered as there",
    ),
    Route(
        method="POST",
        path="/vertex",
        handler=vertex,
        request=VertexRequest,
        example={"instances": [_PROMPT, _CHAT]},
        response=VertexResponse,
        errors=_GENERATION_ERRORS,
        tag=_PLATFORMS,
        summary="Vertex: several prompts or conversations at a time",
    ),
)

_SERVER_ROUTES = (
    Route(
        method="GET",
        path="/info",
        handler=info,
        response=Info,
        tag=_SERVER,
        summary="What is served, and its limits",
    ),
    *(
        Route(
            method="GET",
            path=path,
            handler=handler,
            protected=False,
            errors=(503,),
            tag=_SERVER,
            summary="Whether requests can be served",
        )
        for path, handler in (("/", root), ("/health", health), ("/ping", health))
    ),
    Route(
        method="GET",
        path="/health/live",
        handler=live,
        protected=False,
        response=Liveness,
        tag=_SERVER,
        summary="Whether the server lives, and how its engine is",
        description="200 while the engine is away, too: it is started again.",
    ),
    Route(
        method="GET",
        path="/streams/{id}",
        handler=resume,
        event=dict[str, Any],
        errors=(404, 422, 429),
        parameters=(
            Parameter(name="id", place="path", description="`X-Stream-Id` of the answer that the stream began with."),
            Parameter(
                name="Last-Event-ID",
                place="header",
                pattern=r"^[0-9]{1,18}$",
                description="Number in the last `id:` line that came.",
            ),
        ),
        tag=_SERVER,
        summary="Go on with a stream whose connection was lost",
        description="What follows the event in `Last-Event-ID`, all that is kept without it; "
        "an id is forgotten when nobody has read for some time. Who reads before is cut off. "
        "429: the process that had the stream died, and there is no room to go on now; come back.",
    ),
    Route(
        method="GET",
        path="/metrics",
        handler=metrics,
        media_types=("text/plain", "application/openmetrics-text"),
        tag=_SERVER,
        summary="Prometheus metrics",
        description="In OpenMetrics where `Accept` asks for that.",
    ),
)

# A page is where a key is typed in, and has no secrets: open to all, like whether the server lives.
_WEB_ROUTES = (
    *(Route(method="GET", path=f"/page/{name}", handler=asset, protected=False) for name in ASSETS),
    Route(method="GET", path="/docs", handler=to_docs, protected=False),
    Route(method="GET", path="/docs/", handler=docs, protected=False),
    Route(method="GET", path="/openapi.json", handler=openapi),
    Route(method="GET", path="/api-doc/openapi.json", handler=openapi),
)

ROUTES: tuple[Route, ...] = (
    *_TGI_ROUTES,
    *_OPENAI_ROUTES,
    *_RESPONSES_ROUTES,
    *_ANTHROPIC_ROUTES,
    *_VLLM_ROUTES,
    *_PLATFORM_ROUTES,
    *_SERVER_ROUTES,
    *_WEB_ROUTES,
)
