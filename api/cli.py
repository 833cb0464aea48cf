"""The `headwater` command. Flags and environment variables are named as TGI's launcher names them."""

import logging
import os
import signal
import sys
import time
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from msgspec import Struct
from setproctitle import setproctitle

from ..bench.cli import app as bench
from ..engine.checkpoint.convert import convert as convert_gguf
from ..engine.checkpoint.errors import ModelError
from ..engine.checkpoint.resolve import DEFAULT_MODEL_ID, resolve_model
from ..engine.checkpoint.tokenizer_config import with_tokenizer_config
from ..engine.config import ENGINE, MODEL, EngineConfig, Flag, KVEventsConfig
from ..engine.cores import usable_cores
from ..engine.install_hints import install_extra
from ..engine.log import configure_logging, log_refusal
from .cache_commands import app as cache
from .config import ApiConfig, engine_socket
from .launch.adapters import resolve_adapters
from .launch.addresses import StartError, probe_port, socket_dir
from .launch.flags import GroupedCommand, configure, configure_hub, has_extra, with_flags
from .launch.foreign_flags import ForeignFlagError, take_foreign_flags
from .launch.shards import count_shards
from .launch.supervisor import Supervisor
from .launch.tls import check_tls

logger = logging.getLogger(__name__)

app = typer.Typer(
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


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"headwater {installed_version('headwater')}")
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool, typer.Option("--version", "-V", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Streams text from a transformer, token by token, over HTTP."""


class ModelFlags(Struct, kw_only=True):
    """Which model is served; settings of neither process."""

    model_id: Annotated[str | None, Flag(MODEL, ("--model-id",), "The same as MODEL, which wins.")] = None
    revision: Annotated[str | None, Flag(MODEL, ("--revision",), "Branch, tag or commit of a model on the Hub.")] = None
    huggingface_hub_cache: Annotated[
        str | None, Flag(MODEL, ("--huggingface-hub-cache",), "Where models of the Hub are kept.")
    ] = None
    lora_adapters: Annotated[
        str | None,
        Flag(
            MODEL,
            ("--lora-adapters",),
            "Adapters that requests may name: ids on the Hub, or name=directory, separated by commas.",
            metavar="ID,NAME=DIR,...",
        ),
    ] = None
    tokenizer_config_path: Annotated[
        Path | None,
        Flag(
            MODEL,
            ("--tokenizer-config-path",),
            "A tokenizer_config.json in place of the model's: chat template, special tokens, end token.",
        ),
    ] = None
    num_shard: Annotated[
        int | None,
        Flag(ENGINE, ("--num-shard",), "Processes or GPUs that the model is divided among: 1, 2, 4 or 8.", min=1),
    ] = None
    sharded: Annotated[
        Literal["true", "false"] | None,
        Flag(ENGINE, ("--sharded",), "true: a shard for each of CUDA_VISIBLE_DEVICES.", metavar="true|false"),
    ] = None


@app.command(cls=GroupedCommand)
@with_flags(ModelFlags, ApiConfig, EngineConfig)
def serve(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(
            help=f"Directory in Hugging Face format, .gguf file or Hub id; {DEFAULT_MODEL_ID} if not given.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    **flags: Any,
) -> None:
    """Serve MODEL over HTTP until SIGTERM or Ctrl-C.

    What is not given is chosen from the hardware and the model. Each flag can be set by an environment variable.
    """
    begin = time.monotonic()
    given = {name: value for name, value in flags.items() if value is not None}
    _check(given)
    setproctitle("headwater serve")
    configure_logging(given["json_output"])
    for note in context.obj or ():
        logger.warning("%s", note)
    try:
        code = _serve(model, given, begin)
    except (ModelError, StartError) as error:
        log_refusal(error, given["json_output"])
        code = 1
    raise typer.Exit(code)


def _serve(model: str | None, given: dict[str, Any], begin: float) -> int:
    """``begin``: when the command began, by the monotonic clock. Returns the exit code."""
    check_tls(given.get("tls_cert"), given.get("tls_key"))
    given["port"] = probe_port(given["host"], given["port"])
    given.setdefault("api_workers", max(1, usable_cores() // 4))
    if (replicas := given.get("replicas", 1)) > 1:
        given.setdefault("threads", max(1, usable_cores() // replicas))
    choice = configure(ModelFlags, given)
    given["num_shard"] = count_shards(choice.sharded, choice.num_shard, os.environ)
    configure_hub(choice.huggingface_hub_cache, progress=not given["json_output"])
    found = resolve_model(model or choice.model_id, choice.revision, given.get("dtype"))
    if choice.revision is not None and found.sha is None:
        logger.warning("--revision changes nothing: MODEL is not from the Hub")
    directory = found.directory
    if choice.tokenizer_config_path is not None:
        directory = with_tokenizer_config(directory, choice.tokenizer_config_path)
    adapters = resolve_adapters(choice.lora_adapters or "", found.model_id)
    if (draft := given.get("speculative_model")) is not None:
        given["speculative_model"] = resolve_model(str(draft), dtype=given.get("dtype")).directory
    with socket_dir() as sockets:
        shared = {"model_dir": directory, "model_id": found.model_id}
        engine = configure(EngineConfig, given, **shared, socket=engine_socket(sockets, 0), adapters=adapters)
        api = configure(
            ApiConfig, given, **shared, model_sha=found.sha, version=installed_version("headwater"),
            engine_socket=engine.socket,
        )  # fmt: skip
        return Supervisor(engine, api, begin).run()


def _check(flags: dict[str, Any]) -> None:
    """What no single flag can say. Raises typer.BadParameter."""
    prompt, total = flags.get("max_input_tokens"), flags.get("max_total_tokens")
    if prompt is not None and total is not None and prompt >= total:
        raise typer.BadParameter(f"max-input-tokens {prompt} must be below max-total-tokens {total}")
    if flags.get("api_key") == "":
        raise typer.BadParameter("api-key is empty: leave it out, or choose one")
    events: KVEventsConfig | None = flags.get("kv_events_config")
    wanted = (
        ("otlp-endpoint", "otlp", "otlp_endpoint" in flags),
        ("kv-events-config", "kv-events", events is not None and events.publishes),
    )
    for flag, extra, is_used in wanted:
        if is_used and not has_extra(extra):
            raise typer.BadParameter(f"{flag} needs more packages: {install_extra(extra)}")


app.add_typer(bench, name="bench")
app.add_typer(cache, name="cache")


@app.command()
def convert(
    gguf: Annotated[Path, typer.Argument(metavar="FILE.gguf", help="The file to convert.", show_default=False)],
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Made; must not exist.", show_default=False)],
) -> None:
    """Make a directory in Hugging Face format (bf16) from a .gguf file."""
    configure_logging(json_output=False)
    convert_gguf(gguf, directory)
    print(f"{directory}: done. Serve it with `headwater serve {directory}`.")


def main() -> None:
    """Entry point of the console script: an error of the user's is one line, never a traceback."""
    # As an exception: a conversion that is under way removes what it has written.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    try:
        notes: list[str] = []
        if sys.argv[1:2] == ["serve"]:
            sys.argv[2:], notes = take_foreign_flags(sys.argv[2:], os.environ)
        app(obj=notes)  # for serve, which knows how to log
    except (ModelError, StartError, ForeignFlagError) as error:
        log_refusal(error, json_output=False)
        sys.exit(1)
