"""The drawing of the ring, as it stands on a terminal."""

from __future__ import annotations

from textwrap import dedent

import pytest
from tidegrid.grid.app.ring_drawing import RingNode, draw_ring


def nodes(count: int, token: int = 0) -> list[RingNode]:
    return [RingNode((f"node {n} ●" if n == token else f"node {n}", "16 parts"), n == token) for n in range(count)]


def drawn(count: int, width: int = 80) -> str:
    return dedent(draw_ring(nodes(count), width))


def test_one_node_hands_the_token_to_itself() -> None:
    assert drawn(1) == dedent(
        """\
        ╭──────────╮
        │ node 0 ● │ ─╮
        │ 16 parts │  │
        ╰──────────╯  │
              ▲       │
              ╰───────╯"""
    )


def test_two_nodes() -> None:
    assert drawn(2) == dedent(
        """\
        ╭──────────╮     ╭──────────╮
        │ node 0 ● │ ──▶ │ node 1   │
        │ 16 parts │     │ 16 parts │
        ╰──────────╯     ╰──────────╯
              ▲                │
              ╰────────────────╯"""
    )


def test_three_nodes() -> None:
    assert drawn(3) == dedent(
        """\
        ╭──────────╮     ╭──────────╮
        │ node 0 ● │ ──▶ │ node 1   │
        │ 16 parts │     │ 16 parts │
        ╰──────────╯     ╰──────────╯
              ▲                │
              │                ▼
              │          ╭──────────╮
              ╰───────── │ node 2   │
                         │ 16 parts │
                         ╰──────────╯"""
    )


def test_four_nodes() -> None:
    assert drawn(4) == dedent(
        """\
        ╭──────────╮     ╭──────────╮
        │ node 0 ● │ ──▶ │ node 1   │
        │ 16 parts │     │ 16 parts │
        ╰──────────╯     ╰──────────╯
              ▲                │
              │                ▼
        ╭──────────╮     ╭──────────╮
        │ node 3   │ ◀── │ node 2   │
        │ 16 parts │     │ 16 parts │
        ╰──────────╯     ╰──────────╯"""
    )


@pytest.mark.parametrize("count", range(1, 20))
@pytest.mark.parametrize("width", [40, 80, 200])
def test_it_fits_and_names_everyone(count: int, width: int) -> None:
    text = draw_ring(nodes(count), width)
    assert max(map(len, text.splitlines())) <= width
    for node in range(count):
        assert f"node {node}" in text


def test_too_many_become_a_chain_that_shows_the_token() -> None:
    text = draw_ring(nodes(9, token=3), 60)
    assert "[node 3 ●] ─▶ node 4" in text
    assert text.endswith("node 0")


def test_no_node_is_nothing() -> None:
    assert draw_ring([], 80) == ""
