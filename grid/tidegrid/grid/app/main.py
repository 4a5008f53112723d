"""The command line: every command under its name, and `run`, where the process enters."""

from __future__ import annotations

import typer
from tidegrid.grid.app.commands.delete import delete
from tidegrid.grid.app.commands.deploy import deploy
from tidegrid.grid.app.commands.deployments import deployments
from tidegrid.grid.app.commands.effects import effects
from tidegrid.grid.app.commands.generations import generations
from tidegrid.grid.app.commands.get import get
from tidegrid.grid.app.commands.history import history
from tidegrid.grid.app.commands.holds import holds
from tidegrid.grid.app.commands.load import load
from tidegrid.grid.app.commands.map import maps
from tidegrid.grid.app.commands.parked import parked
from tidegrid.grid.app.commands.put import put
from tidegrid.grid.app.commands.regenerate import regenerate
from tidegrid.grid.app.commands.replica import replica
from tidegrid.grid.app.commands.ring import ring
from tidegrid.grid.app.commands.scan import scan
from tidegrid.grid.app.commands.serve import serve
from tidegrid.grid.app.commands.status import status
from tidegrid.grid.app.commands.subscribe import subscribe
from tidegrid.grid.app.commands.verify import verify
from tidegrid.grid.app.commands.version import version
from tidegrid.grid.app.commands.why import why
from tidegrid.grid.app.exit_codes import table

app = typer.Typer(
    name="tidegrid",
    help="An in-memory data grid with write triggers. The event log is the system of record, all else is a view.",
    epilog=table(),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

_RUN, _CODE, _DATA, _FOLLOW = "Run", "Trigger code", "Maps and data", "Follow and look"

app.command(rich_help_panel=_RUN)(serve)
app.command(rich_help_panel=_RUN)(verify)
app.command(rich_help_panel=_RUN)(version)
app.command(rich_help_panel=_CODE)(deploy)
app.command(rich_help_panel=_CODE)(deployments)
app.command(rich_help_panel=_CODE)(regenerate)
app.command(rich_help_panel=_CODE)(generations)
app.add_typer(maps, name="map", rich_help_panel=_DATA)
for read_or_write in (load, put, delete, get, scan, history, why):
    app.command(rich_help_panel=_DATA)(read_or_write)
for follow in (subscribe, replica, effects, status, ring):
    app.command(rich_help_panel=_FOLLOW)(follow)
app.add_typer(parked, name="parked", rich_help_panel=_CODE)
app.add_typer(holds, name="holds", rich_help_panel=_FOLLOW)


def run() -> None:
    app(prog_name="tidegrid")
