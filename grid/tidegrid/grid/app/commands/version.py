"""`tidegrid version`."""

from __future__ import annotations

import platform

from tidegrid.grid.app.invocation import Invocation, command
from tidegrid.grid.version import version as tidegrid_version


@command
def version(call: Invocation) -> None:
    """Print the versions of tidegrid and of what it runs on.

    \b
    Examples:
      $ tidegrid version
      $ tidegrid version --json
    """
    from importlib import metadata

    versions = {
        "tidegrid": tidegrid_version(),
        "python": platform.python_version(),
        "grpcio": metadata.version("grpcio"),
    }
    if call.output.as_json:
        call.output.record(versions)
    for name, number in versions.items():
        call.output.answer(f"{name} {number}")
