"""The options of `headwater serve`, made from the fields of the configurations that have a Flag."""

import inspect
import os
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import msgspec
import typer
from msgspec import Struct
from typer.core import TyperCommand

from ...engine.config import ADDRESS, ENGINE, LIMITS, MODEL, SERVER, Flag
from .foreign_flags import FOREIGN_FLAGS
from .kv_events import parse_kv_events
from .quantize import parse_kv_cache_dtype, parse_quantize
from .root_path import parse_root_path

_GROUPS = (MODEL, ADDRESS, LIMITS, ENGINE, SERVER)
# By field: values that need a word of explanation.
_PARSERS: dict[str, Any] = {
    "quantize": parse_quantize,
    "kv_cache_dtype": parse_kv_cache_dtype,
    "root_path": parse_root_path,
    "kv_events_config": parse_kv_events,
}

K = TypeVar("K", bound=Struct)


def flags_of(*kinds: type[Struct]) -> Iterator[inspect.Parameter]:
    """A parameter, as typer reads it, for each field that has a Flag."""
    for kind in kinds:
        hints = get_type_hints(kind, include_extras=True)
        for field in msgspec.structs.fields(kind):
            hint = hints[field.name]
            flag = next((each for each in getattr(hint, "__metadata__", ()) if isinstance(each, Flag)), None)
            if flag is not None:
                of_kind, default = get_args(hint)[0], field.default
                if get_origin(of_kind) is tuple:  # an option that may be repeated
                    of_kind, default = list[str] | None, None
                yield inspect.Parameter(
                    field.name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=default,
                    annotation=Annotated[of_kind, _option(field.name, flag)],
                )


def _option(field: str, flag: Flag) -> Any:
    variable = flag.names[0].split("/")[0].lstrip("-").replace("-", "_").upper()
    source = f"TGI: {flag.names[0] if flag.tgi is True else flag.tgi}" if flag.tgi else "not in TGI"
    return typer.Option(
        *flag.names,
        help=f"{flag.help} [{source}]",
        envvar=list(flag.env) or (variable if flag.tgi else f"HEADWATER_{variable}"),
        rich_help_panel=flag.group,
        min=flag.min,
        max=flag.max,
        metavar=flag.metavar,
        hidden=flag.hidden,
        parser=_PARSERS.get(field),
    )


def configure(kind: type[K], flags: Mapping[str, Any], **settings: Any) -> K:
    """A configuration from the flags that it has fields for, and what no flag says."""
    given = {name: flags[name] for name in kind.__struct_fields__ if name in flags}
    return msgspec.convert(given | settings, kind)


def with_flags(*kinds: type[Struct]) -> Any:
    """Decorates a command whose last parameter is ``**flags``: typer sees an option for each flag of these."""

    def decorate(command: Any) -> Any:
        own = [each for each in inspect.signature(command).parameters.values() if each.kind is not each.VAR_KEYWORD]
        command.__signature__ = inspect.Signature([*own, *flags_of(*kinds)])
        return command

    return decorate


class GroupedCommand(TyperCommand):
    """Lists its options by group, as plain text: tables cut long flags off."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Called for --help."""
        groups: dict[str, list[tuple[str, str]]] = {group: [] for group in _GROUPS}
        for parameter in self.get_params(ctx):
            described = parameter.get_help_record(ctx)
            if described is not None:
                groups.setdefault(getattr(parameter, "rich_help_panel", None) or "Other", []).append(described)
        for title, lines in groups.items():
            with formatter.section(title):
                formatter.write_dl(lines)
        with formatter.section(
            "TGI's flags that are taken and change nothing, or are answered with what to do instead"
        ):
            formatter.write_text(" ".join(f"--{name}" for name in FOREIGN_FLAGS))


# What needs an extra's packages: one of their modules stands for all.
_MODULES = {"otlp": "opentelemetry.exporter.otlp.proto.http", "kv-events": "zmq"}


def has_extra(extra: str) -> bool:
    """Its packages are there."""
    try:
        return find_spec(_MODULES[extra]) is not None
    except ModuleNotFoundError:  # one of the packages that it lies in
        return False


def configure_hub(cache: str | None, progress: bool) -> None:
    """Before huggingface_hub is imported, for this process and its children.

    Args:
        cache: where models are kept; None: where it keeps them.
        progress: show it while a model is downloaded, on standard error.
    """
    if cache is not None:
        os.environ["HF_HUB_CACHE"] = cache
    if not progress:
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
