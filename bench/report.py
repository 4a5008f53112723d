"""What a bench says: figures, each beside the yardstick of the same run, and whether the target holds.

A `Figure` becomes one JSON object with the keys bench, value, unit, yardstick, yardstick_value, ratio, target, holds;
a bench with several figures prints them as a list under `results`. The ratio is value / yardstick_value, and the
target bounds it: from below (`at_least`: more is better) or from above (`at_most`: less is better). A figure without a
target is there to be compared, and its `holds` is null.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.table import Table

Progress = Callable[[str], None]
"""Told what is being done right now; shown to a person, on stderr."""

Run = Callable[[Progress], "list[Figure]"]
"""A bench: `run(progress)` in a module of this package."""

JsonValue = str | float | bool | None


_HOLDS: Final[dict[bool | None, str]] = {True: "[green]yes[/]", False: "[red]no[/]", None: ""}


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured claim. `note` says how it was measured, where a number alone could mislead."""

    bench: str
    value: float
    unit: str
    yardstick: str
    yardstick_value: float
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""

    def __post_init__(self) -> None:
        assert self.at_least is None or self.at_most is None, "a target is one bound"

    @property
    def ratio(self) -> float:
        return self.value / self.yardstick_value if self.yardstick_value else float("inf")

    @property
    def target(self) -> str:
        if self.at_least is not None:
            return f">= {self.at_least:g} x"
        return f"<= {self.at_most:g} x" if self.at_most is not None else "none"

    @property
    def holds(self) -> bool | None:
        if self.at_least is not None:
            return self.ratio >= self.at_least
        return self.ratio <= self.at_most if self.at_most is not None else None

    def as_json(self) -> dict[str, JsonValue]:
        return {
            "bench": self.bench,
            "value": round(self.value, 3),
            "unit": self.unit,
            "yardstick": self.yardstick,
            "yardstick_value": round(self.yardstick_value, 3),
            "ratio": round(self.ratio, 3),
            "target": self.target,
            "holds": self.holds,
            "note": self.note,
        }


def as_line(figures: Sequence[Figure]) -> str:
    """One JSON object: the figure itself, or `{"results": [...]}` when there are several."""
    if len(figures) == 1:
        return json.dumps(figures[0].as_json())
    return json.dumps({"results": [figure.as_json() for figure in figures]})


def show(figures: Sequence[Figure], console: Console) -> None:
    table = Table("bench", "figure", "yardstick", "ratio", "target", "holds", title="Tidegrid beside its yardsticks")
    for column in (1, 3, 4):
        table.columns[column].justify = "right"
    for figure in figures:
        table.add_row(
            figure.bench,
            f"{figure.value:,.0f} {figure.unit}",
            f"{figure.yardstick}: {figure.yardstick_value:,.0f}",
            f"{figure.ratio:.2f}",
            figure.target,
            _HOLDS[figure.holds],
        )
    console.print(table)
    for figure in figures:
        if figure.note:
            console.print(f"[bold]{figure.bench}[/]: {figure.note}", highlight=False)
