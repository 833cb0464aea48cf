"""The `headwater cache` commands: what conversions of .gguf files take up, and how to be rid of them."""

from typing import Annotated

import typer

from ..engine.checkpoint.conversion_cache import Conversion, cache_dir, conversions, remove
from ..engine.checkpoint.errors import ModelError

app = typer.Typer(
    help="List or remove what .gguf files were converted into.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command("list")
def list_command() -> None:
    """One conversion a line: name, size, the files that it was made from."""
    found = conversions()
    for each in found:
        print(f"{each.path.name}  {_megabytes(each.size)}  {_describe(each)}")
    print(f"{cache_dir()}: {_total(found)}")


@app.command("remove")
def remove_command(
    names: Annotated[list[str] | None, typer.Argument(help="As `headwater cache list` shows them.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    unused: Annotated[
        bool, typer.Option("--unused", help="Those whose files are gone, and what earlier versions left.")
    ] = False,
) -> None:
    """Remove conversions; a file that is served again is converted again.

    A server that runs from one goes on, but cannot start its engine again.
    """
    if (bool(names) + everything + unused) != 1:
        raise typer.BadParameter("give names, --all or --unused")
    found = conversions()
    unknown = set(names or ()) - {each.path.name for each in found}
    if unknown:
        raise ModelError(f"{cache_dir()}: there is no {', '.join(sorted(unknown))}")
    chosen = [each for each in found if everything or each.path.name in (names or ()) or (unused and not each.used)]
    for each in chosen:
        remove(each)
        print(f"removed {each.path.name}")
    print(f"{cache_dir()}: removed {_total(chosen)}")


def _describe(conversion: Conversion) -> str:
    unused = "" if conversion.used else " (unused)"
    return ", ".join(conversion.sources) + unused


def _total(conversions: list[Conversion]) -> str:
    count = len(conversions)
    return f"{count} conversion{'' if count == 1 else 's'}, {_megabytes(sum(each.size for each in conversions))}"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
