"""--lora-adapters: which adapters are loaded at start, as TGI's launcher reads it."""

from ...engine.checkpoint.resolve import resolve_adapter
from ...engine.messages import Adapter
from .addresses import StartError


def resolve_adapters(listed: str, model_id: str) -> tuple[Adapter, ...]:
    """Find or download the adapters of ``id,id@revision,name=directory``. Raises StartError, ModelError.

    Args:
        model_id: what the model itself is called, so that no adapter may be.
    """
    adapters: dict[str, Adapter] = {}
    for entry in filter(None, (part.strip() for part in listed.split(","))):
        name, equals, source = entry.partition("=")
        if not equals:
            name, source = entry.partition("@")[0], entry
        if not name or not source:
            raise StartError(f"--lora-adapters: '{entry}' is neither a name=directory nor an id on the Hub")
        if name in ("tgi", model_id):
            raise StartError(f"--lora-adapters: '{name}' is what requests call the model itself: choose another name")
        if name in adapters:
            raise StartError(f"--lora-adapters: '{name}' is given twice")
        adapters[name] = Adapter(name, str(resolve_adapter(source)))
    return tuple(adapters.values())
