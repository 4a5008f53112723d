"""One call of a command: what all commands have in common, so that a command says only what is its own.

`command` gives a function --json and --debug, `client_command` also --server, --deadline and --tls-*; both run it and
turn what it raises into a line on stderr and an exit code. The first parameter of a command is its Invocation; typer
sees the others and the added ones.

Nothing here imports the client or the engine before a command runs, so that `--help` is quick.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from tidegrid.grid.app.exit_codes import ExitCode, exit_code_of
from tidegrid.grid.app.output import Output
from tidegrid.grid.model.errors import GridError

if TYPE_CHECKING:
    from tidegrid.client import Grid, TlsOptions

T = TypeVar("T")

SERVER = "localhost:7411"
DEADLINE_SECONDS = 10.0
SILENT_SECONDS = 2.0  # then it is said what is waited for

_ALL = "All commands"
_CONNECTION = "Connection"

JsonOption = Annotated[
    bool, typer.Option("--json", help="For scripts: JSON on stdout, the rest on stderr.", rich_help_panel=_ALL)
]
DebugOption = Annotated[
    bool,
    typer.Option("--debug", envvar="TIDEGRID_DEBUG", help="Show tracebacks of errors.", rich_help_panel=_ALL),
]
ServerOption = Annotated[
    str,
    typer.Option(
        "--server", "--at", "-s", metavar="HOST:PORT", envvar="TIDEGRID_SERVER", rich_help_panel=_CONNECTION,
        help="Any node of the grid; several after commas: the first that answers is asked for the others.",
    ),
]  # fmt: skip
DeadlineOption = Annotated[
    float,
    typer.Option(
        "--deadline", metavar="SECONDS", min=0.001, rich_help_panel=_CONNECTION,
        help="How long an answer may take. Longer rides out restarts; shorter fails sooner.",
    ),
]  # fmt: skip
TlsCaOption = Annotated[
    Path | None,
    typer.Option(
        "--tls-ca", metavar="PEM", envvar="TIDEGRID_TLS_CA", rich_help_panel=_CONNECTION,
        help="Use TLS, and trust what this authority has signed.",
    ),
]  # fmt: skip
TlsCertOption = Annotated[
    Path | None,
    typer.Option(
        "--tls-cert", metavar="PEM", envvar="TIDEGRID_TLS_CERT", rich_help_panel=_CONNECTION,
        help="Show this certificate to the node (mTLS).",
    ),
]  # fmt: skip
TlsKeyOption = Annotated[
    Path | None,
    typer.Option(
        "--tls-key", metavar="PEM", envvar="TIDEGRID_TLS_KEY", rich_help_panel=_CONNECTION,
        help="The key of --tls-cert.",
    ),
]  # fmt: skip
TlsNameOption = Annotated[
    str | None,
    typer.Option(
        "--tls-name", metavar="NAME", envvar="TIDEGRID_TLS_NAME", rich_help_panel=_CONNECTION,
        help="The name in the node's certificate, if it is not the address.",
    ),
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Connection:
    server: str = SERVER
    deadline: float = DEADLINE_SECONDS
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_name: str | None = None

    @property
    def tls(self) -> TlsOptions | None:
        from tidegrid.client import TlsOptions

        if not (self.tls_ca or self.tls_cert or self.tls_key or self.tls_name):
            return None
        return TlsOptions(self.tls_ca, self.tls_cert, self.tls_key, self.tls_name)


class Invocation:
    def __init__(self, output: Output, connection: Connection | None = None) -> None:
        self.output = output
        self.connection = connection or Connection()

    @asynccontextmanager
    async def connect(self, *, wait_ready: bool = True) -> AsyncIterator[Grid]:
        """The grid that --server names. Raises what `tidegrid.client.connect` raises."""
        from tidegrid.client import connect

        connection = self.connection
        given = [address.strip() for address in connection.server.split(",") if address.strip()]
        addresses = [address if ":" in address else f"{address}:7411" for address in given]
        silent = asyncio.get_running_loop().call_later(SILENT_SECONDS, self._tell_of_silence, addresses)
        try:
            async with connect(
                addresses, deadline=connection.deadline, tls=connection.tls, wait_ready=wait_ready
            ) as grid:
                silent.cancel()
                yield grid
        finally:
            silent.cancel()

    def _tell_of_silence(self, addresses: Sequence[str]) -> None:
        if not self.output.as_json:
            left = self.connection.deadline - SILENT_SECONDS
            self.output.note(f"no answer from {' or '.join(addresses)} yet; trying for another {left:.0f} s ...")


Command = Callable[..., ExitCode | int | None]
AsyncCommand = Callable[..., Coroutine[Any, Any, ExitCode | int | None]]


def command(function: Command) -> Callable[..., None]:
    """A command that needs no server."""

    @functools.wraps(function)
    def run(*, as_json: bool, debug: bool, **arguments: Any) -> None:
        output = Output(as_json, debug)
        _finish(output, lambda: function(Invocation(output), **arguments))

    return _described(run, function, [("as_json", JsonOption, False), ("debug", DebugOption, False)])


def client_command(*, deadline: float = DEADLINE_SECONDS) -> Callable[[AsyncCommand], Callable[..., None]]:
    """An async command that asks a server, with its own default for --deadline."""

    def decorate(function: AsyncCommand) -> Callable[..., None]:
        @functools.wraps(function)
        def run(*, as_json: bool, debug: bool, **arguments: Any) -> None:
            output = Output(as_json, debug)
            given = {name: arguments.pop(name) for name in Connection.__dataclass_fields__}
            call = Invocation(output, Connection(**given))
            os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what it would print, the command says in its own words
            _finish(output, lambda: run_on_loop(function(call, **arguments)))

        added: list[tuple[str, Any, Any]] = [
            ("server", ServerOption, SERVER),
            ("deadline", DeadlineOption, deadline),
            ("tls_ca", TlsCaOption, None),
            ("tls_cert", TlsCertOption, None),
            ("tls_key", TlsKeyOption, None),
            ("tls_name", TlsNameOption, None),
            ("as_json", JsonOption, False),
            ("debug", DebugOption, False),
        ]
        return _described(run, function, added)

    return decorate


def run_on_loop(work: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run`, on uvloop where there is one."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(work)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def _described(
    run: Callable[..., None], function: Callable[..., Any], added: list[tuple[str, Any, Any]]
) -> Callable[..., None]:
    """`run` with the signature of `function`, less the Invocation, and with what is added."""
    of_function = inspect.signature(function, eval_str=True)
    own = list(of_function.parameters.values())[1:]
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, annotation, default in added
    ]
    described: Any = run
    described.__signature__ = inspect.Signature([*own, *more], return_annotation=None)
    described.__annotations__ = {parameter.name: parameter.annotation for parameter in [*own, *more]}
    described.__doc__ = _reflowed(inspect.getdoc(function) or "")
    del described.__wrapped__
    return run


def _reflowed(text: str) -> str:
    """Each paragraph on one line, for the terminal to break; one that begins with \\b stays as it is."""
    return "\n\n".join(part if part.startswith("\b") else part.replace("\n", " ") for part in text.split("\n\n"))


def _finish(output: Output, work: Callable[[], ExitCode | int | None]) -> None:
    """Runs a command to its exit code. Expected errors are a line or two, never a traceback."""
    code: int
    try:
        code = work() or ExitCode.OK
        output.flush()
    except GridError as error:
        if output.debug:
            raise
        output.error(error)
        code = exit_code_of(error)
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone (`tidegrid scan flights | head`); nothing more can be said there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = ExitCode.READER_GONE
    except OSError as error:
        if output.debug:
            raise
        output.error(GridError(f"{error.filename or 'the system'}: {error.strerror or error}"))
        code = ExitCode.USAGE
    except typer.Exit:
        raise
    except Exception as error:
        if output.debug:
            raise
        kind = type(error).__name__
        output.error(
            GridError(f"a defect of tidegrid: {kind}: {error}; run it again with --debug and report what it shows")
        )
        code = ExitCode.DEFECT
    raise typer.Exit(int(code))
