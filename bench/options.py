"""Options that several bench commands share. `headwater serve` reads this file too: it imports next to nothing."""

import dataclasses
import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import typer

from .load.protocols import ProtocolName

WorkloadName = Literal["random", "shared-prefix", "chat", "sharegpt", "file"]

LENGTHS = "N, LOW-HIGH (uniform) or MEAN:DEVIATION (normal)"


@dataclasses.dataclass(frozen=True)
class LoadOptions:
    """What is asked, how, and when it counts as failed."""

    protocol: Annotated[
        ProtocolName, typer.Option("--protocol", "-p", help="Of URLs that don't say; PROTOCOL+URL does.")
    ] = "tgi"
    model: Annotated[str, typer.Option(help="Name in OpenAI requests; the server's first one if not given.")] = ""
    workload: Annotated[WorkloadName, typer.Option("--workload", "-w", help="What is asked.")] = "random"
    file: Annotated[Path | None, typer.Option(help="Of workloads sharegpt (JSON) and file (a prompt a line).")] = None
    input_tokens: Annotated[str, typer.Option(help=f"Length of prompts: {LENGTHS}.")] = "128"
    output_tokens: Annotated[
        str | None, typer.Option(help=f"Length of answers: {LENGTHS}; 128, or for sharegpt the file's, if not given.")
    ] = None
    prefix_tokens: Annotated[int, typer.Option(min=1, help="Shared-prefix: length of a prefix.")] = 512
    prefixes: Annotated[int, typer.Option(min=1, help="Shared-prefix: how many there are.")] = 4
    turns: Annotated[int, typer.Option(min=1, help="Chat: requests of a conversation.")] = 4
    tokenizer: Annotated[
        Path | None, typer.Option(help="tokenizer.json or its directory: prompts of exact length.")
    ] = None
    requests: Annotated[
        int | None, typer.Option("--requests", "-n", min=1, help="Of a run; 4 per client, at least 16, or 64 by rate.")
    ] = None
    duration: Annotated[float | None, typer.Option(min=0, help="Seconds after which nothing new begins.")] = None
    warmup: Annotated[int, typer.Option(min=0, help="Requests before the first run that don't count.")] = 2
    seed: Annotated[int, typer.Option(min=0, help="Of texts, lengths and arrivals.")] = 0
    ignore_eos: Annotated[bool, typer.Option(help="Ask for answers of exactly the length wanted.")] = True
    extra_body: Annotated[str, typer.Option(help="JSON object added to requests (tgi: to parameters).")] = "{}"
    header: Annotated[
        list[str] | None, typer.Option("--header", "-H", help="'Name: value', may be repeated; in no report.")
    ] = None
    stall: Annotated[float, typer.Option(min=0.01, help="Seconds without a byte until a request has failed.")] = 120.0
    timeout: Annotated[float, typer.Option(min=0.01, help="Seconds until a request has failed.")] = 600.0
    slo: Annotated[str, typer.Option(help="Objectives in ms, such as ttft:500,itl:50 (also tpot, e2el).")] = ""
    client_check: Annotated[bool, typer.Option(help="Measure this client itself first.")] = True
    allow_errors: Annotated[bool, typer.Option(help="Exit with 0 even if requests failed.")] = False
    detailed: Annotated[bool, typer.Option(help="Write each request's times into the JSON.")] = False


@dataclasses.dataclass(frozen=True)
class ReportOptions:
    """Where results go beside the terminal."""

    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write all figures as JSON.")] = None
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page with tables and plots.")] = None
    svg: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the plots as an image.")] = None


def with_options(function: Callable[..., None]) -> Callable[..., None]:
    """Make a typer command of a function with dataclasses of options as parameters: their fields become its own."""
    hints = get_type_hints(function, include_extras=True)
    own = list(inspect.signature(function).parameters.values())
    groups = {each.name: hints[each.name] for each in own if dataclasses.is_dataclass(hints[each.name])}
    parameters = [each.replace(annotation=hints[each.name]) for each in own if each.name not in groups]
    for group in groups.values():
        types = get_type_hints(group, include_extras=True)
        parameters += [
            inspect.Parameter(
                field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=types[field.name]
            )
            for field in dataclasses.fields(group)
        ]

    @wraps(function)
    def command(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in dataclasses.fields(group)})
        function(**values)

    del command.__dict__["__wrapped__"]  # or typer would look at the function itself
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    return command


def parse_numbers(text: str, kind: Callable[[str], float]) -> list[float]:
    """``1,8,32``. Raises ValueError."""
    numbers = [kind(part) for part in text.split(",") if part.strip()]
    if not numbers or min(numbers) <= 0:
        raise ValueError(f"{text!r}: positive numbers, separated by commas, are expected")
    return numbers
