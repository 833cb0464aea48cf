"""The `headwater` command. Flags and environment variables are named as TGI's launcher names them."""

import os
import sys
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated, Literal

import typer
from setproctitle import setproctitle

from ..bench.cli import app as bench
from ..engine.checkpoint.convert import convert as convert_gguf
from ..engine.checkpoint.errors import ModelError
from ..engine.checkpoint.quantized import QuantizeName
from ..engine.checkpoint.resolve import DEFAULT_MODEL_ID, resolve_model
from ..engine.config import EngineConfig
from ..engine.messages import MAX_TOP_N
from .config import DEFAULT_HEARTBEAT_TIMEOUT_S, ApiConfig
from .launch.options import (
    ADDRESS,
    ENGINE,
    LIMITS,
    MODEL,
    SERVER,
    ForeignFlagError,
    GroupedCommand,
    can_trace,
    flag,
    take_foreign_flags,
    use_hub_cache,
)
from .launch.quantize import parse_quantize
from .launch.supervisor import StartError, Supervisor, probe_port, socket_dir

app = typer.Typer(
    help="StreamRegistry text from a transformer, token by token, over HTTP.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={
        "help_option_names": ["-h", "--help"],
        # TGI's users write --max_total_tokens as often as --max-total-tokens.
        "token_normalize_func": lambda name: name.replace("_", "-"),
    },
)


@app.command(cls=GroupedCommand)
def serve(
    model: Annotated[
        str | None,
        typer.Argument(
            help=f"Directory in Hugging Face format, .gguf file or Hub id; {DEFAULT_MODEL_ID} if not given.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    model_id: Annotated[str | None, flag(MODEL, "--model-id", help="The same as MODEL, which wins.")] = None,
    revision: Annotated[
        str | None, flag(MODEL, "--revision", help="Branch, tag or commit of a model on the Hub.")
    ] = None,
    huggingface_hub_cache: Annotated[
        str | None, flag(MODEL, "--huggingface-hub-cache", help="Where models of the Hub are kept.")
    ] = None,
    tokenizer_config_path: Annotated[
        Path | None,
        flag(MODEL, "--tokenizer-config-path", help="A tokenizer_config.json whose chat template is used instead."),
    ] = None,
    dtype: Annotated[
        Literal["bfloat16", "float16", "float32"] | None,
        flag(MODEL, "--dtype", help="Of weights, and of activations unless they have their own."),
    ] = None,
    activation_dtype: Annotated[
        Literal["bfloat16", "float16", "float32"] | None,
        flag(
            MODEL,
            "--activation-dtype",
            tgi=False,
            help="Of activations and KV cache; float32 beside bfloat16 weights is exact, and slower (cpu backend).",
        ),
    ] = None,
    quantize: Annotated[
        QuantizeName | None,
        flag(
            MODEL,
            "--quantize",
            parser=parse_quantize,
            metavar="int8|fp8",
            help="Round weights to 8 bits on load; int8 is the more exact. A quantised checkpoint needs no flag.",
        ),
    ] = None,
    # Not HOSTNAME, which TGI reads: containers set it to their own name.
    host: Annotated[
        str,
        flag(
            ADDRESS,
            "--hostname",
            "--host",
            help="Address to listen on; 0.0.0.0 is all.",
            env="HEADWATER_HOSTNAME",
        ),
    ] = "127.0.0.1",
    port: Annotated[int, flag(ADDRESS, "--port", "-p", min=0, max=65535, help="0 is a free one.")] = 8080,
    api_key: Annotated[
        str | None,
        flag(ADDRESS, "--api-key", help="What `Authorization: Bearer` must bear, but for health checks."),
    ] = None,
    cors_allow_origin: Annotated[
        list[str] | None, flag(ADDRESS, "--cors-allow-origin", help="May be repeated; any if not given.")
    ] = None,
    max_concurrent_requests: Annotated[
        int, flag(LIMITS, "--max-concurrent-requests", min=1, help="Requests at a time; more get 429.")
    ] = 128,
    max_best_of: Annotated[int, flag(LIMITS, "--max-best-of", min=1, help="Largest best_of.")] = 2,
    max_stop_sequences: Annotated[
        int, flag(LIMITS, "--max-stop-sequences", min=0, help="Stop strings of one request.")
    ] = 4,
    max_top_n_tokens: Annotated[
        int, flag(LIMITS, "--max-top-n-tokens", min=0, max=MAX_TOP_N, help="Largest top_n_tokens.")
    ] = 5,
    max_client_batch_size: Annotated[
        int, flag(LIMITS, "--max-client-batch-size", min=1, help="Prompts of one request.")
    ] = 4,
    max_input_tokens: Annotated[
        int | None,
        flag(
            LIMITS,
            "--max-input-tokens",
            "--max-input-length",
            min=1,
            help="Tokens of a prompt; one less than max-total-tokens if not given.",
        ),
    ] = None,
    max_total_tokens: Annotated[
        int | None, flag(LIMITS, "--max-total-tokens", min=2, help="Prompt and generated tokens of a request.")
    ] = None,
    payload_limit: Annotated[
        int, flag(LIMITS, "--payload-limit", min=1, help="Bytes of a request's body.")
    ] = 2_000_000,
    request_timeout: Annotated[
        float,
        flag(LIMITS, "--request-timeout", tgi=False, min=0, help="Seconds a request may take, waiting too; 0: any."),
    ] = 0,
    disable_grammar_support: Annotated[
        bool, flag(LIMITS, "--disable-grammar-support", help="Refuse grammars and response formats.")
    ] = False,
    device: Annotated[
        Literal["cpu", "cuda"] | None, flag(ENGINE, "--device", tgi=False, help="A GPU if there is one.")
    ] = None,
    backend: Annotated[
        Literal["cpu", "triton"] | None, flag(ENGINE, "--backend", tgi=False, help="Kernels; the device's own.")
    ] = None,
    threads: Annotated[int | None, flag(ENGINE, "--threads", tgi=False, min=1, help="Of the cpu backend.")] = None,
    kv_cache_bytes: Annotated[
        int | None, flag(ENGINE, "--kv-cache-bytes", tgi=False, min=1, help="Size of the KV cache.")
    ] = None,
    max_batch_prefill_tokens: Annotated[
        int | None, flag(ENGINE, "--max-batch-prefill-tokens", min=1, help="Tokens of one step.")
    ] = None,
    max_batch_size: Annotated[
        int | None, flag(ENGINE, "--max-batch-size", min=1, help="Sequences of one step.")
    ] = None,
    prefix_cache: Annotated[
        bool,
        flag(
            ENGINE,
            "--prefix-cache/--no-prefix-cache",
            help="Keep what was computed for prompts and answers that begin alike.",
            tgi="PREFIX_CACHING=0",
            env=["PREFIX_CACHING", "USE_PREFIX_CACHING"],
        ),
    ] = True,
    speculate: Annotated[
        int, flag(ENGINE, "--speculate", min=0, help="Tokens guessed in each step from the text so far; 0: none.")
    ] = 0,
    api_workers: Annotated[
        int | None,
        flag(SERVER, "--api-workers", tgi=False, min=1, help="HTTP processes; one per four cores if not given."),
    ] = None,
    validation_workers: Annotated[
        int, flag(SERVER, "--validation-workers", min=1, help="Threads of a process that tokenise long prompts.")
    ] = 2,
    graceful_termination_timeout: Annotated[
        float,
        flag(
            SERVER,
            "--graceful-termination-timeout",
            "-g",
            min=0,
            help="Seconds that running responses get after SIGTERM.",
        ),
    ] = 90,
    stream_resume_grace: Annotated[
        float,
        flag(
            SERVER,
            "--stream-resume-grace",
            tgi=False,
            min=0,
            help="Seconds that a stream with X-Stream-Resumable waits for a client that lost its connection; 0: none.",
        ),
    ] = 30,
    heartbeat_timeout: Annotated[
        float,
        flag(
            SERVER,
            "--heartbeat-timeout",
            tgi=False,
            min=1,
            help="Seconds without a sign of life after which the engine is killed and started again.",
        ),
    ] = DEFAULT_HEARTBEAT_TIMEOUT_S,
    max_engine_restarts: Annotated[
        int,
        flag(
            SERVER,
            "--max-engine-restarts",
            tgi=False,
            min=0,
            help="Starts of an engine that died, in a minute; then all ends.",
        ),
    ] = 5,
    inject_faults: Annotated[
        list[str] | None, typer.Option("--inject-faults", hidden=True, help="For tests: engine/faults.py.")
    ] = None,
    otlp_endpoint: Annotated[
        str | None,
        flag(SERVER, "--otlp-endpoint", help="Collector of traces, OTLP over HTTP: http://host:4318 for example."),
    ] = None,
    otlp_service_name: Annotated[
        str, flag(SERVER, "--otlp-service-name", help="What traces call this server.")
    ] = "text-generation-inference.router",
    json_output: Annotated[bool, flag(SERVER, "--json-output", help="Write logs as JSON lines.")] = False,
) -> None:
    """Serve MODEL over HTTP until SIGTERM or Ctrl-C.

    What is not given is chosen from the hardware and the model. Each flag can be set by an environment variable.
    """
    if max_input_tokens and max_total_tokens and max_input_tokens >= max_total_tokens:
        raise typer.BadParameter(
            f"max-input-tokens {max_input_tokens} must be below max-total-tokens {max_total_tokens}"
        )
    if api_key == "":
        raise typer.BadParameter("api-key is empty: leave it out, or choose one")
    if otlp_endpoint is not None and not can_trace():
        raise typer.BadParameter("otlp-endpoint needs more packages: pip install 'headwater[otlp]'")
    setproctitle("headwater serve")
    port = probe_port(host, port)
    use_hub_cache(huggingface_hub_cache)
    found = resolve_model(model or model_id, revision)
    with socket_dir() as sockets:
        engine = EngineConfig(
            model_dir=found.directory,
            model_id=found.model_id,
            socket=sockets / "engine-0.sock",
            device=device,
            backend=backend,
            dtype=dtype,
            activation_dtype=activation_dtype,
            quantize=quantize,
            kv_cache_bytes=kv_cache_bytes,
            max_total_tokens=max_total_tokens,
            max_batch_prefill_tokens=max_batch_prefill_tokens,
            max_batch_size=max_batch_size,
            threads=threads,
            prefix_cache=prefix_cache,
            speculate=speculate,
            faults=tuple(inject_faults or ()),
        )
        api = ApiConfig(
            model_dir=found.directory,
            model_id=found.model_id,
            model_sha=found.sha,
            revision=revision,
            host=host,
            port=port,
            api_workers=api_workers or max(1, len(os.sched_getaffinity(0)) // 4),
            engine_socket=engine.socket,
            max_concurrent_requests=max_concurrent_requests,
            max_best_of=max_best_of,
            max_stop_sequences=max_stop_sequences,
            max_top_n_tokens=max_top_n_tokens,
            max_client_batch_size=max_client_batch_size,
            max_input_tokens=max_input_tokens,
            max_total_tokens=max_total_tokens,
            payload_limit=payload_limit,
            request_timeout=request_timeout,
            disable_grammar_support=disable_grammar_support,
            tokenizer_config_path=tokenizer_config_path,
            validation_workers=validation_workers,
            api_key=api_key,
            cors_allow_origin=tuple(cors_allow_origin or ()),
            graceful_termination_timeout=graceful_termination_timeout,
            stream_resume_grace=stream_resume_grace,
            heartbeat_timeout=heartbeat_timeout,
            max_engine_restarts=max_engine_restarts,
            otlp_endpoint=otlp_endpoint,
            otlp_service_name=otlp_service_name,
            json_output=json_output,
            version=installed_version("headwater"),
        )
        code = Supervisor(engine, api).run()
    raise typer.Exit(code)


app.add_typer(bench, name="bench")


@app.command()
def convert(
    gguf: Annotated[Path, typer.Argument(metavar="FILE.gguf", help="The file to convert.", show_default=False)],
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Made; must not exist.", show_default=False)],
) -> None:
    """Make a directory in Hugging Face format (bf16) from a .gguf file."""
    convert_gguf(gguf, directory)
    print(f"{directory}: done. Serve it with `headwater serve {directory}`.")


def main() -> None:
    """Entry point of the console script: an error of the user's is one line, never a traceback."""
    try:
        if sys.argv[1:2] == ["serve"]:
            sys.argv[2:], notes = take_foreign_flags(sys.argv[2:], os.environ)
            for note in notes:
                print(f"headwater: {note}", file=sys.stderr)
        app()
    except (ModelError, StartError, ForeignFlagError) as error:
        print(f"headwater: error: {error}", file=sys.stderr)
        sys.exit(1)
