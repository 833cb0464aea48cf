"""TGI's own routes."""

from ..chat.request import ChatRequest
from ..http.routing import Route
from ..openai.chat import chat_tokenize
from ..openai.schema import ChatTokenizeResponse
from ..text.token_list import SimpleToken
from ..tgi.generate import compat_generate, generate, generate_stream
from ..tgi.schema import CompatGenerateRequest, GenerateRequest, GenerateResponse, StreamResponse
from ..vllm.schema import TokenizeChatRequest, TokenizePromptRequest, TokenizeResponse
from ..vllm.tokens import tokenize
from .shared import CHAT, GENERATION_ERRORS, PROMPT, RESUMABLE

_TAG = "Text generation"
_TGI_STREAM = (
    "Each event is `data: ` and one line of JSON; the last has `generated_text`. "
    "What fails after the first token is an event, too."
)

TGI_ROUTES: tuple[Route, ...] = (
    Route(
        method="POST",
        path="/",
        handler=compat_generate,
        request=CompatGenerateRequest,
        example=PROMPT,
        response=list[GenerateResponse],
        event=StreamResponse,
        errors=GENERATION_ERRORS,
        parameters=(RESUMABLE,),
        tag=_TAG,
        summary="Generate; `stream` in the body says how to answer",
        description=_TGI_STREAM,
    ),
    Route(
        method="POST",
        path="/generate",
        handler=generate,
        request=GenerateRequest,
        example=PROMPT,
        response=GenerateResponse,
        errors=GENERATION_ERRORS,
        tag=_TAG,
        summary="Generate, then answer",
    ),
    Route(
        method="POST",
        path="/generate_stream",
        handler=generate_stream,
        request=GenerateRequest,
        example=PROMPT,
        event=StreamResponse,
        errors=GENERATION_ERRORS,
        parameters=(RESUMABLE,),
        tag=_TAG,
        summary="Generate, and send each token as it comes",
        description=_TGI_STREAM,
    ),
    Route(
        method="POST",
        path="/tokenize",
        handler=tokenize,
        request=(GenerateRequest, TokenizePromptRequest, TokenizeChatRequest),
        example=PROMPT,
        response=list[SimpleToken] | TokenizeResponse,
        errors=(422,),
        tag=_TAG,
        summary="The tokens of a text or of a conversation",
        description="`inputs` is TGI's form, whose `start` and `stop` count bytes of UTF-8; "
        "`prompt` and `messages` are vLLM's, answered with ids.",
    ),
    Route(
        method="POST",
        path="/chat_tokenize",
        handler=chat_tokenize,
        request=ChatRequest,
        example=CHAT,
        response=ChatTokenizeResponse,
        errors=(422,),
        tag=_TAG,
        summary="The prompt of a conversation, and its tokens",
        description="`start` and `stop` count bytes of UTF-8.",
    ),
)
