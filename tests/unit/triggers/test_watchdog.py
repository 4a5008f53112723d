"""The thread that stops triggers: it throws while a row is in their hands, and never after."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tidegrid.triggers.budget import Overrun, Watch
from tidegrid.triggers.watchdog import Watchdog


@pytest.fixture
def watch() -> Iterator[Watch]:
    watch, dog = Watch(), Watchdog()
    watch.budget = 0.01
    dog.watch(watch)
    yield watch
    dog.close()


def loop(watch: Watch) -> bool:
    """Holds one row until it is thrown out of it, as a session does."""
    try:
        watch.row = object()
        while True:
            pass
    except Overrun:
        watch.row = None
        if watch.stopping:
            try:
                watch.settle()
            except Overrun:
                watch.settle()
        return True


def test_a_row_that_stays_is_stopped_each_time(watch: Watch) -> None:
    assert all(loop(watch) for _ in range(5)) and not watch.stopping


def test_a_row_that_has_ended_meanwhile_is_let_go() -> None:
    """The thread looks again before it throws: another row is in hand by now, or none."""
    watch, dog = Watch(), Watchdog()
    for row in (object(), None):
        watch.row = row
        dog._stop(watch, object())
        assert not watch.stopping
    dog.close()


def test_what_is_forgotten_is_not_watched() -> None:
    watch, dog = Watch(), Watchdog()
    dog.watch(watch)
    dog.forget(watch)
    assert dog._watches == ()
    dog.close()


def test_what_has_not_come_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has run the row to its end finds `stopping` set, and nothing comes after `settle`."""
    thrown: list[bool] = []
    monkeypatch.setattr("tidegrid.triggers.watchdog._throw", lambda _thread, what: thrown.append(what is not None))
    watch, dog = Watch(), Watchdog()
    dog.watch(watch)
    row = watch.row = object()
    dog._stop(watch, row)
    assert watch.stopping and thrown == [True]
    watch.row = None
    watch.settle()
    assert not watch.stopping and thrown == [True, False]
    dog.close()
