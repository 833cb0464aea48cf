"""Certificate and key of a server that speaks TLS."""

import ssl
from pathlib import Path

from .addresses import StartError


def check_tls(cert: Path | None, key: Path | None) -> None:
    """Whether they can be used, before anything is loaded. Raises StartError, which names the file."""
    if cert is None and key is None:
        return
    if cert is None or key is None:
        missing = "certificate" if cert is None else "key"
        raise StartError(f"--tls-cert and --tls-key belong together: the {missing} is missing")
    for path in (cert, key):
        try:
            path.read_bytes()
        except OSError as error:
            raise StartError(f"{path}: {error.strerror}") from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_verify_locations(cert)
    except ssl.SSLError as error:
        raise StartError(f"{cert}: this is no certificate in PEM form") from error
    try:
        context.load_cert_chain(cert, key, password="")  # else OpenSSL would ask for it
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise StartError(f"{key}: the key is not that of {cert}") from error
        # Granian 2.8 takes passwords, and cannot read what openssl encrypts with them.
        plain = "`openssl pkey -in FILE -out PLAIN` takes a password away"
        raise StartError(f"{key}: this is no private key in PEM form, or it is encrypted; {plain}") from error
