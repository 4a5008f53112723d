"""The time budget of triggers, as far as pure code knows of it: which write is in their hands now, and for how long it
may be. Whoever has a clock looks at a `Watch` from another thread, and throws `Overrun` into the one that runs triggers
(watchdog.py).

`row` changes with every write, so a write that is seen twice has been there all the time between. `stopping` is set
before anything is thrown: who has run the write to its end then calls `settle`, after which nothing comes any more.
Neither costs the write path more than storing two attributes.
"""

from __future__ import annotations

from collections.abc import Callable


class Overrun(BaseException):
    """Thrown into a trigger that is over its budget. No Exception: triggers should not catch it with their own."""


def overrun_text(budget: float) -> str:
    return f"it ran for longer than its budget of {budget:g} s"


class Watch:
    """Of the thread that runs the triggers of one node. `overruns`: names of triggers, for the node to take."""

    __slots__ = ("budget", "overruns", "row", "settle", "stopping")

    def __init__(self) -> None:
        self.row: object = None
        self.budget = 0.0
        self.stopping = False
        self.settle: Callable[[], None] = _nothing
        self.overruns: list[str] = []


def _nothing() -> None:
    pass
