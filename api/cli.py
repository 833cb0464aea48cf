"""The `headwater` command. Flags and environment variables are named as TGI's launcher names them."""

import os
import sys
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated, Literal

import typer
from setproctitle import setproctitle

from ..engine.checkpoint.convert import convert as convert_gguf
from ..engine.checkpoint.errors import ModelError
from ..engine.checkpoint.resolve import DEFAULT_MODEL_ID, resolve_model
from ..engine.config import EngineConfig
from .config import ApiConfig
from .supervisor import StartError, Supervisor, probe_port, socket_dir

app = typer.Typer(
    help="Streams text from a transformer, token by token, over HTTP.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # tables cut long flags off
    context_settings={
        "help_option_names": ["-h", "--help"],
        # TGI's users write --max_total_tokens as often as --max-total-tokens.
        "token_normalize_func": lambda name: name.replace("_", "-"),
    },
)


@app.command()
def serve(
    model: Annotated[
        str | None,
        typer.Argument(
            help=f"Directory in Hugging Face format, .gguf file or Hub id; {DEFAULT_MODEL_ID} if not given."
        ),
    ] = None,
    model_id: Annotated[str | None, typer.Option(envvar="MODEL_ID", help="The same as MODEL, which wins.")] = None,
    revision: Annotated[
        str | None, typer.Option(envvar="REVISION", help="Branch, tag or commit of a model on the Hub.")
    ] = None,
    # Not HOSTNAME, which TGI reads: containers set it to their own name.
    host: Annotated[
        str,
        typer.Option("--hostname", "--host", envvar="HEADWATER_HOSTNAME", help="Address to listen on; 0.0.0.0 is all."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", "-p", envvar="PORT", min=0, max=65535, help="0 is a free one.")] = 8080,
    api_workers: Annotated[
        int | None,
        typer.Option(envvar="HEADWATER_API_WORKERS", min=1, help="HTTP processes; one per four cores if not given."),
    ] = None,
    cors_allow_origin: Annotated[
        list[str] | None, typer.Option(envvar="CORS_ALLOW_ORIGIN", help="May be repeated; any if not given.")
    ] = None,
    graceful_termination_timeout: Annotated[
        float,
        typer.Option(
            "--graceful-termination-timeout",
            "-g",
            envvar="GRACEFUL_TERMINATION_TIMEOUT",
            min=0,
            help="Seconds that running responses get after SIGTERM.",
        ),
    ] = 90,
    json_output: Annotated[
        bool, typer.Option("--json-output", envvar="JSON_OUTPUT", help="Write logs as JSON lines.")
    ] = False,
    max_concurrent_requests: Annotated[
        int, typer.Option(envvar="MAX_CONCURRENT_REQUESTS", min=1, help="Requests at a time; more get 429.")
    ] = 128,
    max_best_of: Annotated[int, typer.Option(envvar="MAX_BEST_OF", min=1, help="Largest best_of.")] = 2,
    max_stop_sequences: Annotated[
        int, typer.Option(envvar="MAX_STOP_SEQUENCES", min=0, help="Stop strings of one request.")
    ] = 4,
    max_top_n_tokens: Annotated[int, typer.Option(envvar="MAX_TOP_N_TOKENS", min=0, help="Largest top_n_tokens.")] = 5,
    max_client_batch_size: Annotated[
        int, typer.Option(envvar="MAX_CLIENT_BATCH_SIZE", min=1, help="Prompts of one request.")
    ] = 4,
    max_input_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-input-tokens",
            "--max-input-length",
            envvar="MAX_INPUT_TOKENS",
            min=1,
            help="Tokens of a prompt; one less than max-total-tokens if not given.",
        ),
    ] = None,
    max_total_tokens: Annotated[
        int | None, typer.Option(envvar="MAX_TOTAL_TOKENS", min=2, help="Prompt and generated tokens.")
    ] = None,
    payload_limit: Annotated[
        int, typer.Option(envvar="PAYLOAD_LIMIT", min=1, help="Bytes of a request's body.")
    ] = 2_000_000,
    dtype: Annotated[
        Literal["bfloat16", "float16", "float32"] | None,
        typer.Option(envvar="DTYPE", help="Of weights, and of activations unless they have their own."),
    ] = None,
    activation_dtype: Annotated[
        Literal["bfloat16", "float16", "float32"] | None,
        typer.Option(
            envvar="HEADWATER_ACTIVATION_DTYPE",
            help="Of activations and KV cache; float32 beside bfloat16 weights is exact, and slower (cpu backend).",
        ),
    ] = None,
    device: Annotated[
        Literal["cpu", "cuda"] | None, typer.Option(envvar="HEADWATER_DEVICE", help="A GPU if there is one.")
    ] = None,
    backend: Annotated[
        Literal["cpu", "triton"] | None, typer.Option(envvar="HEADWATER_BACKEND", help="Kernels; the device's own.")
    ] = None,
    max_batch_prefill_tokens: Annotated[
        int | None, typer.Option(envvar="MAX_BATCH_PREFILL_TOKENS", min=1, help="Tokens of one step.")
    ] = None,
    max_batch_size: Annotated[
        int | None, typer.Option(envvar="MAX_BATCH_SIZE", min=1, help="Sequences of one step.")
    ] = None,
    kv_cache_bytes: Annotated[
        int | None, typer.Option(envvar="HEADWATER_KV_CACHE_BYTES", min=1, help="Size of the KV cache.")
    ] = None,
    threads: Annotated[int | None, typer.Option(envvar="HEADWATER_THREADS", min=1, help="Of the cpu backend.")] = None,
) -> None:
    """Serve MODEL over HTTP until SIGTERM or Ctrl-C.

    What is not given is chosen from the hardware and the model.
    """
    if max_input_tokens and max_total_tokens and max_input_tokens >= max_total_tokens:
        raise typer.BadParameter(
            f"max-input-tokens {max_input_tokens} must be below max-total-tokens {max_total_tokens}"
        )
    setproctitle("headwater serve")
    port = probe_port(host, port)
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
            kv_cache_bytes=kv_cache_bytes,
            max_total_tokens=max_total_tokens,
            max_batch_prefill_tokens=max_batch_prefill_tokens,
            max_batch_size=max_batch_size,
            threads=threads,
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
            cors_allow_origin=tuple(cors_allow_origin or ()),
            graceful_termination_timeout=graceful_termination_timeout,
            json_output=json_output,
            version=installed_version("headwater"),
        )
        code = Supervisor(engine, api).run()
    raise typer.Exit(code)


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
        app()
    except (ModelError, StartError) as error:
        print(f"headwater: error: {error}", file=sys.stderr)
        sys.exit(1)
