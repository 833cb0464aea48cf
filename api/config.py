"""What the API server is told at start. No torch here: the supervisor builds this from the command line.

A setting that has a flag says so beside its type, see engine/config.py.
"""

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Struct

from ..engine.config import ADDRESS, LIMITS, MODEL, SERVER, Flag
from ..engine.messages import MAX_TOP_N

# vLLM's names; the forms behind them: api/chat/reasoning.py, api/chat/tools/forms.py.
ReasoningParserName = Literal[
    "openai_gptoss", "mistral", "seed_oss", "granite", "qwen3", "deepseek_v3", "glm45", "olmo3", "deepseek_r1"
]

ToolCallParserName = Literal[
    "openai", "qwen3_coder", "qwen3_xml", "glm45", "glm47", "mistral", "deepseek_v3", "deepseek_v31",
    "cohere_command3", "hermes", "granite", "phi4_mini_json", "pythonic", "llama4_pythonic", "llama3_json",
    "llama4_json",
    "glm4", "command_r", "tool_code",  # not vLLM's
]  # fmt: skip


class ApiConfig(Struct, frozen=True, kw_only=True):
    """Settings of the HTTP server; the defaults of limits are TGI's. None means: taken from the model or the engine."""

    model_dir: Path  # tokenizer.json, chat template, generation_config.json
    model_id: str  # what clients see
    model_sha: str | None = None  # commit of the Hub snapshot
    version: str = "0"  # of headwater
    engine_socket: Path  # Unix socket that the first engine listens on

    # Not HOSTNAME, which TGI reads: containers set it to their own name.
    host: Annotated[
        str,
        Flag(ADDRESS, ("--hostname", "--host"), "Address to listen on; 0.0.0.0 is all.", env=("HEADWATER_HOSTNAME",)),
    ] = "127.0.0.1"
    port: Annotated[int, Flag(ADDRESS, ("--port", "-p"), "0 is a free one.", min=0, max=65535)] = 8080
    root_path: Annotated[
        str,
        Flag(
            ADDRESS,
            ("--root-path",),
            "Where a proxy puts the server, /llm for example; requests may have it before their path or not.",
            tgi=False,
            metavar="PATH",
        ),
    ] = ""
    tls_cert: Annotated[
        Path | None,
        Flag(
            ADDRESS, ("--tls-cert", "--ssl-certfile"), "Speak TLS, with this certificate (PEM, its chain behind it).",
            tgi=False,
        ),
    ] = None  # fmt: skip
    tls_key: Annotated[
        Path | None, Flag(ADDRESS, ("--tls-key", "--ssl-keyfile"), "The certificate's private key (PEM).", tgi=False)
    ] = None
    http2: Annotated[
        bool,
        Flag(
            ADDRESS,
            ("--http2",),
            "HTTP/2 beside 1.1, behind TLS and without; connections that ask for nothing are then never closed.",
            tgi=False,
        ),
    ] = False
    api_key: Annotated[
        str | None,
        Flag(ADDRESS, ("--api-key",), "What `Authorization: Bearer` must bear, but for health checks."),
    ] = None
    cors_allow_origin: Annotated[
        tuple[str, ...], Flag(ADDRESS, ("--cors-allow-origin",), "May be repeated; any if not given.")
    ] = ()

    reasoning_parser: Annotated[
        ReasoningParserName | None,
        Flag(
            MODEL, ("--reasoning-parser",), "How the model marks its thoughts; as its chat template shows.", tgi=False
        ),
    ] = None

    tool_call_parser: Annotated[
        ToolCallParserName | None,
        Flag(MODEL, ("--tool-call-parser",), "How the model writes calls; as its chat template shows.", tgi=False),
    ] = None

    max_concurrent_requests: Annotated[
        int, Flag(LIMITS, ("--max-concurrent-requests",), "Requests at a time; more get 429.", min=1)
    ] = 128
    max_best_of: Annotated[int, Flag(LIMITS, ("--max-best-of",), "Largest best_of.", min=1)] = 2
    max_stop_sequences: Annotated[
        int, Flag(LIMITS, ("--max-stop-sequences",), "Stop strings of one request.", min=0)
    ] = 4
    max_top_n_tokens: Annotated[
        int, Flag(LIMITS, ("--max-top-n-tokens",), "Largest top_n_tokens.", min=0, max=MAX_TOP_N)
    ] = 5
    max_client_batch_size: Annotated[
        int | None,
        Flag(LIMITS, ("--max-client-batch-size",), "Prompts of one request; as many as may run if not given.", min=1),
    ] = None
    max_input_tokens: Annotated[
        int | None,
        Flag(
            LIMITS,
            ("--max-input-tokens", "--max-input-length"),
            "Tokens of a prompt; one less than max-total-tokens if not given.",
            min=1,
        ),
    ] = None
    max_total_tokens: Annotated[
        int | None, Flag(LIMITS, ("--max-total-tokens",), "Prompt and generated tokens of a request.", min=2)
    ] = None
    payload_limit: Annotated[int, Flag(LIMITS, ("--payload-limit",), "Bytes of a request's body.", min=1)] = 2_000_000
    request_timeout: Annotated[
        float,
        Flag(LIMITS, ("--request-timeout",), "Seconds a request may take, waiting too; 0: any.", tgi=False, min=0),
    ] = 0
    disable_grammar_support: Annotated[
        bool, Flag(LIMITS, ("--disable-grammar-support",), "Refuse grammars and response formats.")
    ] = False

    replicas: Annotated[
        int,
        Flag(
            SERVER,
            ("--replicas",),
            "Engines with the whole model each: a GPU each, or a share of the cores. If one dies, the others go on "
            "with what it had.",
            tgi=False,
            min=1,
            max=64,
        ),
    ] = 1
    api_workers: Annotated[
        int | None,
        Flag(SERVER, ("--api-workers",), "HTTP processes; one per four cores if not given.", tgi=False, min=1),
    ] = None
    validation_workers: Annotated[
        int, Flag(SERVER, ("--validation-workers",), "Threads of a process that tokenise long prompts.", min=1)
    ] = 2
    graceful_termination_timeout: Annotated[
        float,
        Flag(
            SERVER,
            ("--graceful-termination-timeout", "-g"),
            "Seconds that running responses get after SIGTERM.",
            min=0,
        ),
    ] = 90
    stream_resume_grace: Annotated[
        float,
        Flag(
            SERVER,
            ("--stream-resume-grace",),
            "Seconds that a stream with X-Stream-Resumable waits for a client that lost its connection; 0: none.",
            tgi=False,
            min=0,
        ),
    ] = 30
    stored_response_age: Annotated[
        float,
        Flag(
            SERVER,
            ("--stored-response-age",),
            "Seconds that an answer of /v1/responses can be had again and gone on from; 0: none, and no background.",
            tgi=False,
            min=0,
        ),
    ] = 3600
    # An engine whose loop stands still for this long is taken for dead. Far above the longest step.
    heartbeat_timeout: Annotated[
        float,
        Flag(
            SERVER,
            ("--heartbeat-timeout",),
            "Seconds without a sign of life after which the engine is killed and started again.",
            tgi=False,
            min=1,
        ),
    ] = 30.0
    max_engine_restarts: Annotated[
        int,
        Flag(
            SERVER,
            ("--max-engine-restarts",),
            "Starts of an engine that died, in a minute; then all ends.",
            tgi=False,
            min=0,
        ),
    ] = 5
    otlp_endpoint: Annotated[
        str | None,
        Flag(SERVER, ("--otlp-endpoint",), "Collector of traces, OTLP over HTTP: http://host:4318 for example."),
    ] = None
    otlp_service_name: Annotated[str, Flag(SERVER, ("--otlp-service-name",), "What traces call this server.")] = (
        "text-generation-inference.router"  # as TGI's, for its dashboards
    )
    json_output: Annotated[bool, Flag(SERVER, ("--json-output",), "One JSON object a line on standard output.")] = False

    @property
    def engine_sockets(self) -> list[Path]:
        """Of all engines, by their numbers."""
        others = (engine_socket(self.engine_socket.parent, index) for index in range(1, self.replicas))
        return [self.engine_socket, *others]


def engine_socket(directory: Path, index: int) -> Path:
    """On which an engine listens."""
    return directory / f"engine-{index}.sock"
