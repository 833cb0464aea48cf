"""A child process of the supervisor: gets its settings through a pipe, and ends when that pipe does."""

import contextlib
import os
import signal
import subprocess
import sys

from msgspec import Struct

from ...engine.config import encode_config


class Child:
    """One running module of ours, in a session of its own so that a terminal's Ctrl-C reaches the supervisor only.

    Its standard input is a pipe whose first line is its settings. The supervisor keeps the pipe open and never writes
    again: end of file tells the child that the supervisor is gone, however it went.
    """

    def __init__(self, module: str, config: Struct, environment: dict[str, str] | None = None) -> None:
        """``environment``: variables beside those of this process."""
        # -P: never the working directory on sys.path, where a folder may be called like a package.
        command = [sys.executable, "-P", "-m", module]
        variables = None if environment is None else os.environ | environment
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, env=variables)
        assert self._process.stdin is not None
        self._lifeline = self._process.stdin
        with contextlib.suppress(BrokenPipeError):  # it died at once: its exit code says so
            self._lifeline.write(encode_config(config))
            self._lifeline.flush()

    @property
    def pid(self) -> int:
        return self._process.pid

    def exit_code(self) -> int | None:
        """As a shell counts it: 128 + the signal's number if one killed it; None while it runs."""
        code = self._process.poll()
        return 128 - code if code is not None and code < 0 else code

    def terminate(self) -> None:
        """Ask it to finish what it is doing and end."""
        if self._process.poll() is None:
            self._process.terminate()

    def hang_up(self) -> None:
        """End of file on its standard input."""
        with contextlib.suppress(BrokenPipeError):
            self._lifeline.close()

    def kill(self) -> None:
        """End it and all that it started, now. Works after its own end too: workers may have outlived it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self.hang_up()


def describe_exit(code: int) -> str:
    """An exit code in words: "exit code 3" or "SIGKILL"."""
    with contextlib.suppress(ValueError):
        return signal.Signals(code - 128).name
    return f"exit code {code}"
