"""Whether this interpreter has what a deployment says it needs (`__requires__`, see tidegrid.triggers.requirements)."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from packaging.requirements import InvalidRequirement, Requirement
from tidegrid.grid.model.errors import TriggerModuleError

PYTHON: Final = "python"  # the interpreter, beside the distributions


def check_requirements(requirements: Iterable[str]) -> None:
    """Raises TriggerModuleError that names all that is missing, and how to get it."""
    missing = [text for text in (_missing(required) for required in requirements) if text]
    if missing:
        raise TriggerModuleError(f"{'; '.join(missing)}", missing=len(missing))


def _missing(text: str) -> str:
    try:
        required = Requirement(text)
    except InvalidRequirement as error:
        return f"the requirement {text!r} is none that pip knows ({error})"
    if required.name.lower() == PYTHON:
        here = platform.python_version()
        suits = required.specifier.contains(here, prereleases=True)
        return "" if suits else f"it requires {text}, this is Python {here}"
    try:
        here = version(required.name)
    except PackageNotFoundError:
        return f"it requires {text}, which is not installed here; pip install '{text}'"
    if not required.specifier.contains(here, prereleases=True):
        return f"it requires {text}, installed here is {here}; pip install '{text}'"
    return ""
