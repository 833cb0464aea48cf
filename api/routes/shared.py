"""What several tables of routes have in common."""

from ..http.routing import Parameter

GENERATION_ERRORS = (422, 424, 429, 504)
PROMPT = {"inputs": "What is Deep Learning?", "parameters": {"max_new_tokens": 20}}
CHAT = {"messages": [{"role": "user", "content": "What is Deep Learning?"}], "max_tokens": 20}
RESUMABLE = Parameter(
    name="X-Stream-Resumable",
    place="header",
    pattern="^1$",
    description="`1`: a stream's answer bears an `X-Stream-Id`, and who lost the connection goes on at `/streams/`.",
)
