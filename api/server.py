"""``python -m headwater.api.server``: parent of the API workers.

Gets its settings as one JSON line on standard input, which stays open: its end means that the supervisor is gone.
Listens only when the engine does, so that a connection is never accepted before there is a model behind it. The
supervisor has made sure that the port is free: Granian would share it with whoever else shares.
"""

import contextlib
import logging
import os
import resource
import shutil
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

from granian import Granian
from granian.constants import HTTPModes, Interfaces, Loops, SSLProtocols
from granian.http import HTTP1Settings, HTTP2Settings
from granian.log import LogLevels
from setproctitle import setproctitle

from ..engine.checkpoint.errors import REFUSED, ModelError
from ..engine.config import decode_config
from ..engine.log import GRANIAN_LOGGING, configure_logging, log_refusal
from ..engine.parent_watch import watch_parent
from .config import ApiConfig
from .generation.permits import create_permits
from .launch.worker_settings import WorkerSettings, set_worker_settings
from .text.chat_template_files import load_chat_templates
from .text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

# Connections, not requests: each takes one while it lives, idle ones too. Far above any number of requests in
# progress, so that refusals, health and metrics are still answered.
_CONNECTIONS = 8192
_ENGINE_POLL_S = 0.05
_ORPHAN_STOP_S = 5.0  # what running responses get once the supervisor is gone: the engine goes with it
# Of one connection: the head of a request must fit (else 431), and so much of a stream waits for a slow reader.
_BUFFER_BYTES = 64 * 1024


def main() -> int:
    """Serve until SIGTERM, SIGINT or the end of standard input; running responses finish first.

    Returns the exit code: REFUSED if the model's files can't be used.
    """
    supervisor = os.getppid()
    config = decode_config(sys.stdin.buffer.readline(), ApiConfig)
    configure_logging(config.json_output)
    setproctitle("headwater api")
    watch_parent(supervisor, lambda: _leave(config.engine_socket), lifeline=0)
    _allow_descriptors()
    try:
        _check_files(config)
    except ModelError as error:
        log_refusal(error, config.json_output)
        return REFUSED
    for engine in config.engine_sockets:
        _wait_for_engine(engine)
    # Beside the socket: the supervisor removes that directory however this process ends.
    parent = config.engine_socket.parent
    with tempfile.TemporaryDirectory(prefix="api-", dir=parent, ignore_cleanup_errors=True) as directory:
        _serve(config, Path(directory))
    if os.getppid() != supervisor:
        _remove_directory(config.engine_socket)
    return 0


def _check_files(config: ApiConfig) -> None:
    """What every worker will read, while the engine loads: a fault is told once. Raises ModelError."""
    Tokenizer(config.model_dir)
    templates = load_chat_templates(config.model_dir)
    for reason in templates.broken.values():
        logger.warning("conversations are refused: %s", reason)
    if templates.response_fault:
        logger.warning("the chat template shows how answers are read, for of %s", templates.response_fault)


def _serve(config: ApiConfig, directory: Path) -> None:
    permits, metrics = directory / "permits", directory / "metrics"
    create_permits(permits)
    metrics.mkdir()
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(metrics)
    set_worker_settings(WorkerSettings(config, permits, os.getpid()))
    # A child of fork that used the tokenizer's own threads before would warn and lose them; one prompt needs none.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    Granian(
        "headwater.api.app:make_app",
        factory=True,
        address=address_of(config.host),
        port=config.port,
        interface=Interfaces.ASGI,
        workers=config.api_workers or 1,
        runtime_threads=1,
        loop=Loops.uvloop,
        url_path_prefix=config.root_path,  # root_path of every scope
        http=HTTPModes.auto if config.http2 else HTTPModes.http1,
        http1_settings=HTTP1Settings(max_buffer_size=_BUFFER_BYTES),
        http2_settings=HTTP2Settings(max_headers_size=_BUFFER_BYTES, max_send_buffer_size=_BUFFER_BYTES),
        ssl_cert=config.tls_cert,
        ssl_key=config.tls_key,
        ssl_protocol_min=SSLProtocols.tls12,
        websockets=False,
        backlog=_CONNECTIONS,
        backpressure=_CONNECTIONS,
        log_level=LogLevels.warning,  # at INFO, Granian writes a line for each message to a client that has gone
        log_dictconfig=GRANIAN_LOGGING,
        respawn_failed_workers=True,
        workers_kill_timeout=max(round(config.graceful_termination_timeout), 1),
        process_name="headwater api",
    ).serve()


def address_of(host: str) -> str:
    """The address that ``host`` stands for: Granian takes no names."""
    return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])


def _leave(engine_socket: Path) -> None:
    """End this process and its workers: the supervisor is gone."""
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_ORPHAN_STOP_S)
    _remove_directory(engine_socket)
    if os.getpgrp() == os.getpid():  # a group of its own, as the supervisor's Child gives it
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)  # the workers notice


def _remove_directory(engine_socket: Path) -> None:
    """Nobody else will remove the sockets' directory, unless an engine still lives: then it is its turn."""
    if any(map(_listens, engine_socket.parent.glob("engine-*.sock"))):
        return
    shutil.rmtree(engine_socket.parent, ignore_errors=True)


def _allow_descriptors() -> None:
    """As many connections as are allowed need as many descriptors; shells often allow 1024 at first."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * _CONNECTIONS
    if soft < wanted:
        with contextlib.suppress(ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard) if hard >= 0 else wanted, hard))


def _wait_for_engine(path: Path) -> None:
    """Until somebody listens; the supervisor ends this process if nobody ever will."""
    while not _listens(path):
        time.sleep(_ENGINE_POLL_S)


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


if __name__ == "__main__":
    sys.exit(main())
