"""Exit codes: every error of the tree has one on purpose, and the help names them all."""

from __future__ import annotations

import pytest
from tidegrid.grid.app.exit_codes import MEANINGS, ExitCode, exit_code_of, table
from tidegrid.grid.model import errors
from tidegrid.grid.model.errors import GridError


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.UnknownMapError, 1),
        (errors.ConflictError, 1),
        (errors.RejectedError, 1),
        (errors.TooLargeError, 1),
        (errors.EpochTooOldError, 1),
        (errors.ConfigurationError, 2),
        (errors.TriggerModuleError, 2),
        (errors.InvalidKeyError, 2),
        (errors.InvalidValueError, 2),
        (errors.UnavailableError, 3),
        (errors.UnauthenticatedError, 3),
        (errors.CorruptionError, 4),
        (errors.FormatError, 4),
        (errors.LogFailedError, 4),
        (errors.DeadlineError, 5),
        (errors.NotClosedError, 5),
        (errors.StoppingError, 5),
        (errors.StorageFullError, 5),
        (errors.BusyError, 5),
        (errors.InUseError, 6),
        (GridError, 70),
    ],
)
def test_the_code_of_an_error(kind: type[GridError], code: int) -> None:
    assert exit_code_of(kind("what happened")) == code


def test_no_error_of_the_tree_is_a_defect() -> None:
    def all_of(kind: type[GridError]) -> list[type[GridError]]:
        return [kind, *(found for branch in kind.__subclasses__() for found in all_of(branch))]

    for kind in all_of(GridError)[1:]:
        if kind.__module__ == errors.__name__:
            assert exit_code_of(kind("")) not in (ExitCode.OK, ExitCode.DEFECT), kind


def test_the_help_names_every_code() -> None:
    for code, meaning in MEANINGS.items():
        assert f"{int(code):>3}  {meaning}" in table()
