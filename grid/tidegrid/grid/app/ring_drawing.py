"""The ring as text: boxes in the order in which the token goes round, top row to the right, bottom row back.

╭────────────────╮     ╭────────────────╮
│ node 0 ● token │ ──▶ │ node 1         │
│ 6 partitions   │     │ 5 partitions   │
╰────────────────╯     ╰────────────────╯
        ▲                      │
        │                      ▼
        │              ╭────────────────╮
        ╰───────────── │ node 2         │
                       │ 5 partitions   │
                       ╰────────────────╯
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_GAP = 5
_MARGIN = 2


@dataclass(frozen=True, slots=True)
class RingNode:
    """`lines`: what its box says, the first one its name. `token`: the token is there."""

    lines: tuple[str, ...]
    token: bool = False


def draw_ring(nodes: Sequence[RingNode], width: int) -> str:
    """No line is longer than `width`, as long as one box fits; a ring too wide to draw becomes a chain of names."""
    if not nodes:
        return ""
    inner = max(len(line) for node in nodes for line in node.lines)
    box = inner + 4
    top = max((len(nodes) + 1) // 2, min(len(nodes), 2))
    if _MARGIN + top * box + (top - 1) * _GAP + (4 if len(nodes) == 1 else 0) > width:
        return _chain(nodes, width)
    high = max(len(node.lines) for node in nodes) + 2
    canvas = _Canvas()
    lefts = [_MARGIN + index * (box + _GAP) for index in range(top)]
    bottom = nodes[top:]
    for index, node in enumerate(nodes[:top]):
        canvas.box(lefts[index], 0, node, inner, high)
        if index + 1 < top:
            canvas.text(lefts[index] + box + 1, 1, "──▶")
    centre = box // 2
    first, last = lefts[0] + centre, lefts[-1] + centre
    if not bottom:
        _return_line(canvas, first, last, high, lefts[-1] + box)
        return str(canvas)
    low = high + 2
    canvas.text(last, high, "│")
    canvas.text(last, high + 1, "▼")
    for index, node in enumerate(bottom):
        left = lefts[top - 1 - index]
        canvas.box(left, low, node, inner, high)
        if index + 1 < len(bottom):
            canvas.text(left - _GAP + 1, low + 1, "◀──")
    canvas.text(first, high, "▲")
    canvas.text(first, high + 1, "│")
    if len(bottom) < top:  # the corner below the first node is free
        canvas.text(first, low, "│")
        canvas.text(first, low + 1, "╰" + "─" * (lefts[1] - first - 2))
    return str(canvas)


def _return_line(canvas: _Canvas, first: int, last: int, high: int, right: int) -> None:
    if first == last:  # one node hands the token to itself
        canvas.text(right + 1, 1, "─╮")
        for row in range(2, high + 1):
            canvas.text(right + 2, row, "│")
        canvas.text(first, high, "▲")
        canvas.text(first, high + 1, "╰" + "─" * (right + 1 - first) + "╯")
        return
    canvas.text(first, high, "▲")
    canvas.text(last, high, "│")
    canvas.text(first, high + 1, "╰" + "─" * (last - first - 1) + "╯")


def _chain(nodes: Sequence[RingNode], width: int) -> str:
    names = [f"[{node.lines[0]}]" if node.token else node.lines[0] for node in nodes]
    lines, line = [], " " * _MARGIN
    for name in [*names, names[0]]:
        piece = name if not line.strip() else f" ─▶ {name}"
        if line.strip() and len(line) + len(piece) > width:
            lines.append(line)
            line, piece = " " * _MARGIN, f"─▶ {name}"
        line += piece
    return "\n".join([*lines, line])


class _Canvas:
    def __init__(self) -> None:
        self._rows: list[list[str]] = []

    def text(self, column: int, row: int, text: str) -> None:
        while len(self._rows) <= row:
            self._rows.append([])
        cells = self._rows[row]
        cells.extend(" " * (column + len(text) - len(cells)))
        cells[column : column + len(text)] = text

    def box(self, left: int, top: int, node: RingNode, inner: int, high: int) -> None:
        self.text(left, top, "╭" + "─" * (inner + 2) + "╮")
        for index in range(high - 2):
            line = node.lines[index] if index < len(node.lines) else ""
            self.text(left, top + 1 + index, f"│ {line:<{inner}} │")
        self.text(left, top + high - 1, "╰" + "─" * (inner + 2) + "╯")

    def __str__(self) -> str:
        return "\n".join("".join(row).rstrip() for row in self._rows)
