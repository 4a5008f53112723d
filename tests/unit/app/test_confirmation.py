"""A question is ended by Ctrl-C at once, whatever runs around it."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
import typer
from tidegrid.grid.app import confirmation


def interrupted(*_: object, **__: object) -> bool:
    os.kill(os.getpid(), signal.SIGINT)
    return True


def test_an_interrupt_is_not_left_for_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask() -> str:
        try:
            confirmation.confirmed("sure?")
        except KeyboardInterrupt:
            return "interrupted"
        return "answered"

    monkeypatch.setattr(typer, "confirm", interrupted)
    before = signal.getsignal(signal.SIGINT)
    assert asyncio.run(ask()) == "interrupted"
    assert signal.getsignal(signal.SIGINT) is before


def test_no_answer_is_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object, **__: object) -> bool:
        raise typer.Abort

    monkeypatch.setattr(typer, "confirm", gone)
    with pytest.raises(KeyboardInterrupt):
        confirmation.confirmed("sure?")
