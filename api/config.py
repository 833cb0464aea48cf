"""What the API server is told at start. No torch here: the supervisor builds this from the command line."""

from pathlib import Path

from msgspec import Struct

# An engine whose loop stands still for this long is taken for dead. Far above the longest step.
DEFAULT_HEARTBEAT_TIMEOUT_S = 30.0


class ApiConfig(Struct, frozen=True, kw_only=True):
    """Settings of the HTTP server; the defaults of limits are TGI's. None means: taken from the model or the engine."""

    model_dir: Path  # tokenizer.json, chat template, generation_config.json
    model_id: str  # what clients see
    model_sha: str | None = None  # commit of the Hub snapshot
    revision: str | None = None  # asked for on the command line
    host: str = "127.0.0.1"
    port: int = 8080
    api_workers: int = 1  # processes
    engine_socket: Path  # Unix socket the engine listens on
    max_concurrent_requests: int = 128
    max_best_of: int = 2
    max_stop_sequences: int = 4
    max_top_n_tokens: int = 5
    max_client_batch_size: int = 4  # prompts of one request
    max_input_tokens: int | None = None
    max_total_tokens: int | None = None  # prompt + generated tokens of one sequence
    payload_limit: int = 2_000_000  # bytes of a request's body
    disable_grammar_support: bool = False
    request_timeout: float = 0.0  # seconds a request may take, queue and all; 0: any time
    api_key: str | None = None  # what Authorization must bear; None: nothing
    tokenizer_config_path: Path | None = None  # a tokenizer_config.json with another chat template
    validation_workers: int = 2  # threads of a worker that tokenise long prompts
    cors_allow_origin: tuple[str, ...] = ()  # empty: any
    graceful_termination_timeout: float = 90.0  # seconds
    stream_resume_grace: float = 30.0  # seconds a resumable stream waits for its client; 0: none is resumable
    max_engine_restarts: int = 5  # in a minute
    heartbeat_timeout: float = DEFAULT_HEARTBEAT_TIMEOUT_S  # seconds
    otlp_endpoint: str | None = None  # collector of traces
    otlp_service_name: str = "text-generation-inference.router"  # as TGI's, for its dashboards
    json_output: bool = False  # logs as JSON lines
    version: str = "0"  # of headwater
