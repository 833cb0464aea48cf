"""TLS with a certificate of the test's own, HTTP/2 behind it, and files that cannot be used."""

import http.client
import json
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from headwater.api.launch.addresses import StartError
from headwater.api.launch.tls import check_tls

from ..conftest import DEADLINE_S, byte_ids, run_api_server

BODY = {"inputs": "x", "parameters": {"max_new_tokens": 9}}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate, its key, the same encrypted, and another key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    path = tmp_path_factory.mktemp("tls")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=path, check=True, capture_output=True)

    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    for key in ("key", "other"):
        openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-out", f"{key}.pem")
    openssl("req", "-x509", "-key", "key.pem", "-out", "cert.pem", "-days", "2", "-subj", "/CN=x", "-addext", names)
    openssl("pkcs8", "-topk8", "-in", "key.pem", "-out", "locked.pem", "-passout", "pass:secret")
    return path


def test_streams_and_clients_that_go_over_both_versions_of_http(tmp_path: Path, model_dir: Path, files: Path) -> None:
    tls = {"tls_cert": files / "cert.pem", "tls_key": files / "key.pem"}
    with run_api_server(tmp_path, model_dir, **tls, http2=True) as server:
        context = ssl.create_default_context(cafile=str(files / "cert.pem"))
        client = http.client.HTTPSConnection("localhost", server.port, timeout=DEADLINE_S, context=context)
        client.request("POST", "/generate_stream", json.dumps(BODY), {"content-type": "application/json"})
        sequence = server.peer.submitted().request_id
        server.peer.send(sequence, byte_ids("a"))
        assert b'"text":"a"' in client.getresponse().readline()
        client.close()
        assert server.peer.aborted().request_id == sequence

        curl = shutil.which("curl")
        if curl is None or "HTTP2" not in subprocess.check_output([curl, "--version"], text=True):
            pytest.skip("no curl that speaks HTTP/2")
        command = [curl, "-sNi", "--http2", "--cacert", str(files / "cert.pem"), "--json", json.dumps(BODY)]
        with subprocess.Popen(
            [*command, f"https://localhost:{server.port}/generate_stream"], stdout=subprocess.PIPE
        ) as process:
            sequence = server.peer.submitted().request_id
            server.peer.send(sequence, byte_ids("a"))
            assert process.stdout is not None
            assert process.stdout.readline().split()[:2] == [b"HTTP/2", b"200"]
            for letter in "bc":  # the next token is sent only when the one before has arrived
                while b"data:" not in process.stdout.readline():
                    pass
                server.peer.send(sequence, byte_ids(letter))
            process.kill()
        assert server.peer.aborted().request_id == sequence


@pytest.mark.parametrize(
    ("cert", "key", "words"),
    [
        ("cert.pem", None, "--tls-cert and --tls-key belong together: the key is missing"),
        (None, "key.pem", "--tls-cert and --tls-key belong together: the certificate is missing"),
        ("none.pem", "key.pem", "none.pem: No such file or directory"),
        ("key.pem", "key.pem", "key.pem: this is no certificate in PEM form"),
        ("cert.pem", "cert.pem", "cert.pem: this is no private key in PEM form, or it is encrypted"),
        ("cert.pem", "locked.pem", "locked.pem: this is no private key in PEM form, or it is encrypted"),
        ("cert.pem", "other.pem", "other.pem: the key is not that of "),
    ],
)
def test_files_that_cannot_be_used_are_named(files: Path, cert: str | None, key: str | None, words: str) -> None:
    with pytest.raises(StartError) as raised:
        check_tls(files / cert if cert else None, files / key if key else None)
    assert words in str(raised.value)


def test_good_files_are_good(files: Path) -> None:
    check_tls(files / "cert.pem", files / "key.pem")
    check_tls(None, None)
