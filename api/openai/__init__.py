"""Routes that speak OpenAI's protocol, and the hosting platforms' forms of it."""

from ..handler import Handler
from ..platforms.handlers import invocations, vertex
from .chat import chat_completions, chat_tokenize
from .completions import completions
from .models import MODEL_PREFIX, model, models

ROUTES: dict[str, dict[str, Handler]] = {
    "/v1/chat/completions": {"POST": chat_completions},
    "/v1/completions": {"POST": completions},
    "/v1/models": {"GET": models},
    "/chat_tokenize": {"POST": chat_tokenize},
    "/invocations": {"POST": invocations},
    "/vertex": {"POST": vertex},
}

# Paths that begin so, whatever follows.
PREFIX_ROUTES: dict[str, dict[str, Handler]] = {MODEL_PREFIX: {"GET": model}}
