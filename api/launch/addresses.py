"""Where the server listens: its port, and the directory of the Unix sockets between its processes."""

import errno
import ipaddress
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

UNIX_PATH_BYTES = 107  # Linux: sun_path is 108 with its final zero


class StartError(Exception):
    """The server cannot start; the message says why and what to do."""


def reachable_host(host: str) -> str:
    """Where a server that listens at ``host`` answers on this machine."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if not address.is_unspecified:
        return host
    return "127.0.0.1" if address.version == 4 else "::1"


def probe_port(host: str, port: int) -> int:
    """Check that we may listen there; port 0 picks a free one. Returns the port. Raises StartError.

    The HTTP server sets SO_REUSEPORT for its workers, so it would start on another server's port and share its
    traffic without a word.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of a server just stopped
            probe.bind(address)
            probe.listen(1)
            return int(probe.getsockname()[1])
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise StartError(f"port {port} of {host} is in use; choose another with --port") from error
        raise StartError(f"cannot listen on port {port} of {host}: {error.strerror or error}") from error


@contextmanager
def socket_dir() -> Iterator[Path]:
    """A private directory for the Unix sockets, removed at the end."""
    parent = tempfile.gettempdir()
    if len(os.fsencode(parent)) + len("/headwater-12345678/engine-0.sock") > UNIX_PATH_BYTES:
        parent = "/tmp"
    path = Path(tempfile.mkdtemp(prefix="headwater-", dir=parent))  # mode 0700
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
