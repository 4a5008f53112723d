"""Every command says what it is for in a line, gives examples, and explains each option; and help needs no engine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main
from tidegrid.grid.app.main import app
from typer.testing import CliRunner


def commands() -> Iterator[tuple[str, Any]]:
    root: Any = typer.main.get_command(app)
    for name, command in root.commands.items():
        if hasattr(command, "commands"):
            for inner, nested in command.commands.items():
                yield f"{name} {inner}", nested
        else:
            yield name, command


ALL = dict(commands())


def test_the_commands() -> None:
    assert set(ALL) == {
        "serve", "verify", "version", "load", "put", "delete", "get", "scan", "history", "why", "map create", "map list", "subscribe",
        "replica", "effects", "status", "ring", "holds list", "holds release", "deploy", "deployments",
        "parked list", "parked redrive", "regenerate", "generations",
    }  # fmt: skip


@pytest.mark.parametrize("name", ALL)
def test_help(name: str) -> None:
    command = ALL[name]
    result = CliRunner().invoke(app, [*name.split(), "--help"], env={"COLUMNS": "120", "TERM": "dumb"})
    assert result.exit_code == 0
    summary = command.help.partition("\n")[0]
    assert summary.endswith(".") and summary.partition(".")[0] in result.stdout
    assert "Examples:" in result.stdout and f"$ tidegrid {name}" in result.stdout
    assert "\\[" not in result.stdout and "[[" not in result.stdout, "brackets that typer sets, or does not take away"
    for parameter in command.params:
        if parameter.param_type_name == "option":
            assert parameter.help, f"{name} {parameter.opts}"
    if name != "serve":
        assert "--json" in result.stdout


def test_the_examples_use_options_that_there_are() -> None:
    for name, command in ALL.items():
        known = {option for parameter in command.params for option in getattr(parameter, "opts", ())}
        for line in (line.strip() for line in command.help.splitlines()):
            if line.startswith("$ tidegrid"):
                words = line.partition("&&")[0].partition(" | ")[0].split()
                used = {word for word in words if word.startswith("-") and word != "-"}
                assert used <= known, f"{name}: {line}"


def test_the_overview_has_the_exit_codes() -> None:
    text = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "120", "TERM": "dumb"}).stdout
    assert "Exit codes:" in text and "another process has the port" in text


def test_help_imports_neither_client_nor_engine() -> None:
    """It is what makes help and completion quick."""
    code = (
        "import sys; import tidegrid.grid.app.main; "
        "print([m for m in ('grpc', 'msgpack', 'tidegrid.client', 'tidegrid.grid.engine', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
