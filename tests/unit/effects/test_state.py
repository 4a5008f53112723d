"""The state file: what one change brings about is one transaction, and nothing is written after a write that failed."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tidegrid.effects import Cursor, Parked, StateFile
from tidegrid.effects.place import Place, Waiting, event_of
from tidegrid.effects.state import State
from tidegrid.effects.state_file import Entry
from tidegrid.grid.model.errors import StorageFullError
from tidegrid.grid.model.keys import encode_key
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.model.values import encode_value

GRID = b"G" * 16


def parked(epoch: int, row: int = 0) -> Parked:
    change = Waiting(
        Place(epoch, 2, epoch * 10, row), "event", encode_key("k"), encode_value({"n": row}, Limits()), 0, 5
    )
    return Parked("mail", event_of(change, GRID, "mail", "s", 3), change._replace(tried=3), "it broke", 1_000)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "effects.db"


def opened(path: Path) -> StateFile:
    file = StateFile(path)
    file.lock(GRID)
    return file


def test_cursor_and_what_is_settled_beyond_it(path: Path) -> None:
    file = opened(path)
    assert file.begin("mail", "s", 4) == (Cursor("mail", "s", 4), [])
    assert file.begin("other", "t", 9)[0].epoch == 9
    file.apply([Entry("mail", 4, Place(6, 1, 60, 0), True), Entry("mail", 4, Place(7, 0, 70, 2), False)])
    file.apply([Entry("mail", 6, None, True)])
    file.close()
    file = opened(path)
    assert file.begin("mail", "s", 100) == (Cursor("mail", "s", 6, done=2, skipped=1), [Place(7, 0, 70, 2)])
    file.advance([("mail", 5), ("other", 12)])
    assert file.cursors() == [Cursor("mail", "s", 6, 2, 1), Cursor("other", "t", 12)]
    file.close()


def test_parked_changes_with_all_that_an_effect_is_given(path: Path) -> None:
    file = opened(path)
    file.begin("mail", "s", 4)
    file.apply([Entry("mail", 5, None, False, park=parked(5)), Entry("mail", 6, None, False, park=parked(6, 1))])
    first, second = file.parked()
    assert (first.number, second.number) == (1, 2)
    assert first.event == parked(5).event and second.event.value == {"n": 1}
    assert (first.error, first.parked_ms, first.again, first.waiting.tried) == ("it broke", 1_000, False, 3)
    assert file.drive_again([2, 9]) == [2]
    assert [found.number for found in file.parked("mail", again=True)] == [2] and file.parked("other") == []
    again = parked(6, 1)._replace(error="it broke again", parked_ms=2_000)
    file.apply([Entry("mail", 6, None, False, number=2, park=again)])
    assert [(found.number, found.error, found.again) for found in file.parked()] == [
        (1, "it broke", False),
        (2, "it broke again", False),
    ]
    assert file.drive_again() == [1, 2]
    file.apply([Entry("mail", 6, None, True, number=1), Entry("mail", 6, None, False, number=2)])
    assert file.parked() == [] and file.parked_count("mail") == 0
    assert file.cursors() == [Cursor("mail", "s", 6, done=1, skipped=1)]
    file.close()


def test_all_entries_or_none(path: Path) -> None:
    file = opened(path)
    file.begin("mail", "s", 4)
    with pytest.raises(AssertionError):
        file.apply([Entry("mail", 5, None, False, park=parked(5)), Entry("nobody", 5, None, True)])
    assert file.cursors() == [Cursor("mail", "s", 4)] and file.parked() == []
    file.close()


async def test_those_who_wait_share_a_transaction_in_their_order(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = State(path)
    await state.open(GRID)
    await state.begin("mail", "s", 4)
    seen: list[list[int]] = []
    apply = StateFile.apply

    def noted(self: StateFile, entries: Sequence[Entry]) -> None:
        seen.append([entry.cursor for entry in entries])
        apply(self, entries)

    monkeypatch.setattr(StateFile, "apply", noted)
    await asyncio.gather(*(state.settle(Entry("mail", epoch, None, True)) for epoch in range(5, 30)))
    assert [epoch for epochs in seen for epoch in epochs] == list(range(5, 30)) and len(seen) <= 2
    assert await state.cursors() == [Cursor("mail", "s", 29, done=25)]
    await state.close()


async def test_after_a_write_that_failed_nothing_is_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later cursor would pass what the first was to park."""
    state = State(path)
    await state.open(GRID)
    await state.begin("mail", "s", 4)

    def full(*_: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(StateFile, "apply", full)
        with pytest.raises(StorageFullError, match="make room"):
            await state.settle(Entry("mail", 5, None, False, park=parked(5)))
    for work in (state.settle(Entry("mail", 6, None, True)), state.advance([("mail", 6)])):
        with pytest.raises(StorageFullError):
            await work
    assert await state.cursors() == [Cursor("mail", "s", 4)]
    await state.close()
