"""A server as a child process, with its data in a temporary directory, ended by its id whatever happens.

Lifecycle: start -> ready (the given probe succeeds) -> terminate -> kill after a grace -> directory removed. A child
that ends before it is ready is an error with the last lines of what it said.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tidegrid.grid.model.errors import ConfigurationError, UnavailableError

READY_SECONDS_MAX = 30.0
STOP_SECONDS_MAX = 15.0
LOOPBACK = "127.0.0.1"


def free_port(count: int = 1) -> int:
    """The first of `count` loopback ports in a row that nobody listens on just now."""
    while True:
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError, OverflowError):
            first = _bound(stack, 0)
            for further in range(1, count):
                _bound(stack, first + further)
            return first


def _bound(stack: contextlib.ExitStack, port: int) -> int:
    probe = stack.enter_context(socket.socket())
    probe.bind((LOOPBACK, port))
    return int(probe.getsockname()[1])


def accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, port), timeout=1):
        return True
    return False


@contextlib.contextmanager
def data_directory(name: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix=f"bench-{name}-", ignore_cleanup_errors=True) as directory:
        yield Path(directory)


@contextlib.contextmanager
def child(
    name: str, command: Sequence[str], ready: Callable[[], bool], directory: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs `command` until the block is left. `ready` is asked until it says yes."""
    said = directory / f"{name}.log"
    with said.open("wb") as output:
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        except OSError as error:
            raise ConfigurationError(f"cannot start {command[0]}: {error}") from error
        try:
            _wait(name, process, ready, said)
            try:
                yield process
            except Exception as error:
                if process.poll() is not None:  # the likelier cause, and nobody else would tell
                    raise _ended(name, process, said) from error
                raise
        finally:
            stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(STOP_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait(name: str, process: subprocess.Popen[bytes], ready: Callable[[], bool], said: Path) -> None:
    until = time.monotonic() + READY_SECONDS_MAX
    while not ready():
        if process.poll() is not None:
            raise _ended(name, process, said)
        if time.monotonic() > until:
            raise UnavailableError(f"{name} was not ready within {READY_SECONDS_MAX:.0f} s; see {said}")
        time.sleep(0.02)


def _ended(name: str, process: subprocess.Popen[bytes], said: Path) -> UnavailableError:
    last = "\n".join(said.read_text(errors="replace").splitlines()[-15:])
    return UnavailableError(f"{name} ended on its own (exit {process.returncode}), and last said:\n{last}")
