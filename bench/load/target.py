"""A server under load: where it is, how it is spoken to, and what it says of itself."""

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from .client import Client, Patience
from .protocols import PROTOCOLS, Message, ProtocolName, RequestOptions

_ABOUT = ("model_id", "model_dtype", "model_device_type", "router", "version", "headwater_version")
_PREFIX = re.compile(rf"({'|'.join(PROTOCOLS)})\+(.*)")


class Models(Struct):
    """Answer of GET /v1/models, as far as it matters here."""

    class Model(Struct):
        id: str

    data: list[Model]


class Address(Struct, frozen=True):
    """One URL of the command line."""

    url: str  # without the route
    protocol: ProtocolName


def parse_address(text: str, protocol: ProtocolName) -> Address:
    """``[PROTOCOL+]URL``; a route at its end is taken off. Raises ValueError."""
    match = _PREFIX.fullmatch(text)
    if match is not None:
        protocol, text = msgspec.convert(match[1], ProtocolName), match[2]
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{text!r}: a URL is http://HOST:PORT, or PROTOCOL+http://HOST:PORT")
    url = text.rstrip("/").removesuffix(PROTOCOLS[protocol].path).rstrip("/").removesuffix("/v1")
    return Address(url.rstrip("/"), protocol)


class Target:
    """A client for one server."""

    def __init__(
        self, address: Address, options: RequestOptions, headers: Mapping[str, str], patience: Patience
    ) -> None:
        self.address = address
        self.model = options.model
        self.about: dict[str, str] = {}  # what GET /info says
        self.client = Client(address.url, address.protocol, options, headers, patience)

    async def introduce(self) -> None:
        """Ask the server what it is; one that doesn't say stays unknown."""
        info = await self.client.get_json("/info")
        if isinstance(info, dict):
            self.about = {key: str(info[key]) for key in _ABOUT if info.get(key) is not None}
        try:
            named = msgspec.convert(await self.client.get_json("/v1/models"), Models).data
        except msgspec.ValidationError:
            named = []
        self.model = self.model or (named[0].id if named else self.about.get("model_id", ""))
        self.client.set_model(self.model)

    async def input_tokens_of(self, text: str) -> int | None:
        """The server's own count of a prompt's tokens, None if it doesn't tell."""
        return (await self.client.stream([Message("user", text)], 1)).input_tokens
