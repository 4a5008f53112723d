"""JSON for terminals and scripts."""

from __future__ import annotations

import json

import pytest
from tidegrid.grid.app.json_text import json_text, key_value, printable


def test_plain_values_are_plain_json() -> None:
    assert json_text({"town": "Tromsø", "n": [1, None, True, 2.5]}) == '{"town": "Tromsø", "n": [1, null, true, 2.5]}'


def test_what_json_does_not_have() -> None:
    value = {"raw": b"\x00\xff", "far": [float("inf"), float("-inf"), float("nan")]}
    assert json_text(value) == '{"raw": {"bytes": "00ff"}, "far": ["Infinity", "-Infinity", "NaN"]}'
    with pytest.raises(TypeError):
        json_text(object())


@pytest.mark.parametrize("text", ["\x1b[31mred", "\x9b2J", "bell\x07", "\u202eright to left", "\U000e0001tag"])
def test_nothing_that_a_terminal_acts_on(text: str) -> None:
    shown = json_text(text)
    assert shown.isprintable()
    assert json.loads(shown) == text
    assert printable(text).isprintable()


def test_lines_and_tabs_stay() -> None:
    assert printable("one\n\ttwo\x1b") == "one\n\ttwo\\u001b"


def test_keys() -> None:
    assert key_value(("N1",)) == "N1"
    assert key_value((2013, "UA")) == [2013, "UA"]
    assert key_value((("a", 1),)) == [("a", 1)]
