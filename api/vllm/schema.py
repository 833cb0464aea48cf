"""Bodies of vLLM's routes: what clients send and get, fields in the order in which they are written."""

from msgspec import Struct

from ..chat.request import ChatRequest
from ..http.json_body import U32


class TokenizePromptRequest(Struct):
    """Body of /tokenize for a text."""

    prompt: str
    model: str | None = None
    add_special_tokens: bool | None = None  # those that the model wants around a text; default: true
    return_token_strs: bool | None = None


class TokenizeChatRequest(ChatRequest, kw_only=True):
    """Body of /tokenize for a conversation, whose prompt is that of /v1/chat/completions."""

    add_special_tokens: bool | None = None  # beside those that the chat template writes; default: false
    return_token_strs: bool | None = None
    chat_template: str | None = None  # refused


class TokenizeResponse(Struct):
    """Answer to either."""

    count: int
    max_model_len: int  # prompt and generated tokens of a request
    tokens: list[int]
    token_strs: list[str] | None  # as the vocabulary spells them; null: not asked for


class DetokenizeRequest(Struct):
    """Body of /detokenize."""

    tokens: list[U32]
    model: str | None = None


class DetokenizeResponse(Struct):
    """Answer of /detokenize."""

    prompt: str  # special tokens included


class Version(Struct):
    """Answer of GET /version."""

    version: str  # of headwater


class LoadAdapterRequest(Struct):
    """Body of /v1/load_lora_adapter."""

    lora_name: str
    lora_path: str  # a directory that PEFT wrote, where the server runs


class UnloadAdapterRequest(Struct):
    """Body of /v1/unload_lora_adapter."""

    lora_name: str
