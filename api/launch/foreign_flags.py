"""TGI's flags that have no counterpart here: what becomes of who brings one."""

from collections.abc import Mapping, Sequence
from typing import Literal

from msgspec import Struct


class Foreign(Struct, frozen=True):
    """A flag of TGI's launcher that has no counterpart here."""

    answer: str
    fatal: bool = False  # what was asked for would not be done
    neutral: tuple[str, ...] = ()  # values that ask for nothing
    takes: Literal["value", "nothing"] = "value"


class ForeignFlagError(Exception):
    """A flag that cannot be honoured; the message says what to do instead."""


FOREIGN_FLAGS: dict[str, Foreign] = {
    "trust-remote-code": Foreign("no code that comes with a model is ever run: leave it out", takes="nothing"),
    "waiting-served-ratio": Foreign("prompts are computed in chunks beside running sequences: nothing to balance"),
    "max-waiting-tokens": Foreign("prompts are computed in chunks beside running sequences: nothing to balance"),
    "max-batch-total-tokens": Foreign(
        "the KV cache is measured at start; --cuda-memory-fraction and --kv-cache-bytes set its size"
    ),
    "cuda-graphs": Foreign("batch sizes of CUDA graphs are chosen at start"),
    "disable-custom-kernels": Foreign(
        "the kernels are all there is: --backend chooses them", fatal=True, takes="nothing"
    ),
    "rope-scaling": Foreign("write rope_scaling into the model's config.json", fatal=True),
    "rope-factor": Foreign("write rope_scaling into the model's config.json", fatal=True, neutral=("1", "1.0")),
    "watermark-gamma": Foreign("requests for a watermark are refused", neutral=("0.5",)),
    "watermark-delta": Foreign("requests for a watermark are refused", neutral=("2", "2.0")),
    "ngrok": Foreign("run a tunnel beside the server", fatal=True, takes="nothing"),
    "ngrok-authtoken": Foreign("run a tunnel beside the server", fatal=True),
    "ngrok-edge": Foreign("run a tunnel beside the server", fatal=True),
    "weights-cache-override": Foreign("use --huggingface-hub-cache", fatal=True),
    "shard-uds-path": Foreign("sockets lie in a private directory of their own"),
    "master-addr": Foreign("shards are processes of one machine, connected by memory"),
    "master-port": Foreign("shards are processes of one machine, connected by memory"),
    "prometheus-port": Foreign("metrics are at /metrics of --port"),
    "enable-prefill-logprobs": Foreign("decoder_input_details is always there", takes="nothing"),
    "usage-stats": Foreign("nothing is ever sent to anybody"),
    "env": Foreign("the start banner says what is used", takes="nothing"),
}
_SHORT = {"-e": "env"}


def take_foreign_flags(arguments: Sequence[str], environment: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Take TGI's flags that have no counterpart out of a command line.

    Returns:
        The arguments that are left, and a line for each flag that was taken and changes nothing.

    Raises:
        ForeignFlagError: what one asks for would not be done.
    """
    left: list[str] = []
    notes: list[str] = []
    given: dict[str, str] = {}
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.partition("=")
        known = _SHORT.get(name) or name.removeprefix("--").replace("_", "-")
        if known not in FOREIGN_FLAGS or not (name.startswith("--") or name in _SHORT):
            left.append(argument)
        elif FOREIGN_FLAGS[known].takes == "nothing":
            given[known] = "true"
        else:
            given[known] = value if equals else next(rest, "")
    for known in FOREIGN_FLAGS:
        variable = known.replace("-", "_").upper()
        # ENV is what shells and containers call something else.
        if known not in given and known != "env" and environment.get(variable):
            given[known] = environment[variable]
    for known, value in given.items():
        foreign = FOREIGN_FLAGS[known]
        if value.lower() in (*foreign.neutral, "false"):
            continue
        if foreign.fatal:
            raise ForeignFlagError(f"--{known}: not here; {foreign.answer}")
        notes.append(f"--{known} changes nothing: {foreign.answer}")
    return left, notes
