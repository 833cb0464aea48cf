"""The `headwater` command. Flags and environment variables are named as TGI's launcher names them."""

import os
import signal
import sys
import time
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated, Any

import typer
from msgspec import Struct
from setproctitle import setproctitle

from ..bench.cli import app as bench
from ..engine.checkpoint.convert import convert as convert_gguf
from ..engine.checkpoint.errors import ModelError
from ..engine.checkpoint.resolve import DEFAULT_MODEL_ID, resolve_model
from ..engine.config import MODEL, EngineConfig, Flag
from ..engine.log import configure_logging, logger
from .cache_commands import app as cache
from .config import ApiConfig
from .launch.addresses import StartError, probe_port, socket_dir
from .launch.flags import GroupedCommand, can_trace, configure, use_hub, with_flags
from .launch.foreign_flags import ForeignFlagError, take_foreign_flags
from .launch.supervisor import Supervisor

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


@app.command(cls=GroupedCommand)
@with_flags(ModelFlags, ApiConfig, EngineConfig)
def serve(
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
    configure_logging(given["json_output"], "headwater")
    setproctitle("headwater serve")
    given["port"] = probe_port(given["host"], given["port"])
    given.setdefault("api_workers", max(1, len(os.sched_getaffinity(0)) // 4))
    choice = configure(ModelFlags, given)
    use_hub(choice.huggingface_hub_cache, quiet=given["json_output"])
    found = resolve_model(model or choice.model_id, choice.revision, given.get("dtype"))
    with socket_dir() as sockets:
        shared = {"model_dir": found.directory, "model_id": found.model_id}
        engine = configure(EngineConfig, given, **shared, socket=sockets / "engine-0.sock")
        api = configure(
            ApiConfig, given, **shared, model_sha=found.sha, version=installed_version("headwater"),
            engine_socket=engine.socket,
        )  # fmt: skip
        code = Supervisor(engine, api, begin).run()
    raise typer.Exit(code)


def _check(flags: dict[str, Any]) -> None:
    """What no single flag can say. Raises typer.BadParameter."""
    prompt, total = flags.get("max_input_tokens"), flags.get("max_total_tokens")
    if prompt is not None and total is not None and prompt >= total:
        raise typer.BadParameter(f"max-input-tokens {prompt} must be below max-total-tokens {total}")
    if flags.get("api_key") == "":
        raise typer.BadParameter("api-key is empty: leave it out, or choose one")
    if "otlp_endpoint" in flags and not can_trace():
        raise typer.BadParameter("otlp-endpoint needs more packages: pip install 'headwater[otlp]'")


app.add_typer(bench, name="bench")
app.add_typer(cache, name="cache")


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
    # As an exception: a conversion that is under way removes what it has written.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    configure_logging(False, "headwater")
    try:
        if sys.argv[1:2] == ["serve"]:
            sys.argv[2:], notes = take_foreign_flags(sys.argv[2:], os.environ)
            for note in notes:
                logger.warning(note)
        app()
    except (ModelError, StartError, ForeignFlagError) as error:
        logger.error("%s", error)
        sys.exit(1)
