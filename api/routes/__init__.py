"""Every route: method, path, who answers it, and what goes in and comes out.

App finds handlers, methods (405) and protection (401) here, and OpenAPI, logs and traces what a route is called.
"""

from ..http.routing import Route
from .anthropic import ANTHROPIC_ROUTES
from .openai import OPENAI_ROUTES
from .platforms import PLATFORM_ROUTES
from .responses import RESPONSES_ROUTES
from .server import SERVER_ROUTES, WEB_ROUTES
from .tgi import TGI_ROUTES
from .vllm import VLLM_ROUTES

ROUTES: tuple[Route, ...] = (
    *TGI_ROUTES,
    *OPENAI_ROUTES,
    *RESPONSES_ROUTES,
    *ANTHROPIC_ROUTES,
    *VLLM_ROUTES,
    *PLATFORM_ROUTES,
    *SERVER_ROUTES,
    *WEB_ROUTES,
)
