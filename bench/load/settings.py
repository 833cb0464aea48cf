"""Options of a load command -> what its parts take. Raises ValueError for what can't be meant."""

from typing import Any

import msgspec

from ..options import LoadOptions
from .client import Patience
from .lengths import parse_lengths
from .metrics import Objectives, parse_objectives
from .protocols import RequestOptions
from .workload import Workload

DEFAULT_REQUESTS_OPEN = 64
LEAST_REQUESTS_CLOSED = 16
REQUESTS_PER_CLIENT = 4
MOST_REQUESTS_TIMED = 2000  # prepared for a run that time ends


def request_options(options: LoadOptions) -> RequestOptions:
    try:
        extra = msgspec.json.decode(options.extra_body, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise ValueError(f"--extra-body {options.extra_body!r}: {error}") from error
    return RequestOptions(options.model, options.ignore_eos, extra)


def headers(options: LoadOptions) -> dict[str, str]:
    found = {}
    for line in options.header or []:
        name, colon, value = line.partition(":")
        if not colon or not name.strip() or "\n" in line or "\r" in line:
            raise ValueError("--header is 'Name: value'")
        found[name.strip()] = value.strip()
    return found


def patience(options: LoadOptions) -> Patience:
    return Patience(stall_s=options.stall, timeout_s=options.timeout)


def objectives(options: LoadOptions) -> Objectives:
    return parse_objectives(options.slo)


def workload(options: LoadOptions) -> Workload:
    return Workload(
        name=options.workload,
        file=options.file,
        input_tokens=parse_lengths(options.input_tokens),
        output_tokens=parse_lengths(options.output_tokens) if options.output_tokens else None,
        prefix_tokens=options.prefix_tokens,
        prefixes=options.prefixes,
        turns=options.turns,
    )


def num_requests(options: LoadOptions, concurrency: int | None) -> int:
    """Of a run in a closed loop, or with None in an open one."""
    if options.requests is not None:
        return options.requests
    if options.duration is not None:
        return MOST_REQUESTS_TIMED
    if concurrency is None:
        return DEFAULT_REQUESTS_OPEN
    return max(LEAST_REQUESTS_CLOSED, REQUESTS_PER_CLIENT * concurrency)
