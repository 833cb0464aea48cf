"""Value of --kv-events-config."""

import msgspec
import typer

from ...engine.config import KVEventsConfig


def parse_kv_events(value: str) -> KVEventsConfig:
    """Raises typer.BadParameter for what isn't one of vLLM's."""
    try:
        return msgspec.json.decode(value, type=KVEventsConfig)
    except msgspec.MsgspecError as error:
        raise typer.BadParameter(f"'{value}': {error}") from error
