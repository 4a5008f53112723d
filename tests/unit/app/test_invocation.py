"""What every command does with what goes wrong: a line on stderr and an exit code, or with --debug all of it."""

from __future__ import annotations

import json
from typing import Annotated

import pytest
import typer
from tidegrid.grid.app import invocation
from tidegrid.grid.app.invocation import Invocation, client_command, command
from tidegrid.grid.model.errors import ConflictError, GridError, LogFailedError
from typer.testing import CliRunner

FAILURES: dict[str, type[BaseException] | BaseException] = {
    "conflict": ConflictError.of(3, 4),
    "log": LogFailedError("the disk is gone"),
    "defect": ZeroDivisionError("division by zero"),
    "file": FileNotFoundError(2, "No such file or directory", "x.csv"),
    "ctrl-c": KeyboardInterrupt(),
    "escape": GridError("red \x1b[31m alert"),
}

app = typer.Typer(pretty_exceptions_enable=False)


@app.command()
@command
def local(call: Invocation, what: str = "") -> None:
    """A command."""
    call.output.answer("for people")
    if call.output.as_json:
        call.output.record({"for": "scripts"})
    if what:
        raise FAILURES[what]


@app.command()
@client_command(deadline=7.0)
async def remote(call: Invocation, name: Annotated[str, typer.Argument()], number: int = 3) -> int:
    """A command that asks."""
    connection = call.connection
    call.output.answer(f"{name} {number} {connection.server} {connection.deadline} {connection.tls_ca}")
    return 4


@app.command()
@client_command()
async def asking(call: Invocation) -> int:
    """A command that needs a server."""
    async with call.connect():
        return 0


def run(*arguments: str, **environment: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments), env=environment)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_answers() -> None:
    assert run("local") == (0, "for people\n", "")
    assert run("local", "--json") == (0, '{"for": "scripts"}\n', "")


def test_a_command_has_its_own_parameters_and_the_common_ones() -> None:
    assert run("remote", "x") == (4, "x 3 localhost:7411 7.0 None\n", "")
    assert run("remote", "x", "--number", "5", "-s", "a:1", "--deadline", "1")[1] == "x 5 a:1 1.0 None\n"
    assert run("remote", "x", TIDEGRID_SERVER="b:2", TIDEGRID_TLS_CA="ca.pem")[1] == "x 3 b:2 7.0 ca.pem\n"
    assert run("remote", "x", "--deadline", "0")[0] == 2


@pytest.mark.parametrize(
    ("what", "code", "says"),
    [
        ("conflict", 1, "error: expected version 3, but the key is at version 4; read it again and decide anew.\n"),
        ("log", 4, "error: the disk is gone.\n"),
        ("file", 2, "error: x.csv: No such file or directory.\n"),
        ("ctrl-c", 130, ""),
        ("escape", 70, "error: red \\u001b[31m alert.\n"),
    ],
)
def test_errors_are_a_line_and_a_code(what: str, code: int, says: str) -> None:
    assert run("local", "--what", what) == (code, "for people\n", says)


def test_a_defect_says_how_to_learn_more() -> None:
    code, _, errors = run("local", "--what", "defect")
    assert code == 70 and "--debug" in errors and "ZeroDivisionError" in errors and "Traceback" not in errors
    with pytest.raises(ZeroDivisionError):
        run("local", "--what", "defect", "--debug")
    with pytest.raises(ConflictError):
        run("local", "--what", "conflict", TIDEGRID_DEBUG="1")


def test_errors_for_scripts() -> None:
    code, out, errors = run("local", "--what", "conflict", "--json")
    assert (code, out) == (1, '{"for": "scripts"}\n')
    error = json.loads(errors)["error"]
    assert (error["code"], error["fields"]) == ("CONFLICT", {"expected": 3, "current": 4})


def test_who_waits_is_told_what_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invocation, "SILENT_SECONDS", 0.05)
    code, out, words = run("asking", "--server", "localhost:1,localhost:2", "--deadline", "0.4")
    first, last, _ = words.split("\n")
    assert (code, out) == (3, "") and last.startswith("error: no node answers at any of localhost:1, localhost:2")
    assert first == "no answer from localhost:1 or localhost:2 yet; trying for another 0 s ..."
    as_json = run("asking", "--server", "localhost:1", "--deadline", "0.4", "--json")[2]
    assert json.loads(as_json)["error"]["code"] == "UNAVAILABLE", "nothing but that for scripts"
