from __future__ import annotations

from base64 import urlsafe_b64encode
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tidegrid.client import Grid, Token, connect
from tidegrid.grid.model.errors import InvalidTokenError, WrongGridError
from tidegrid.grid.model.ids import Epoch, Position

from tests.unit.client.fake_grid import FakeGrid

NUMBERS = st.integers(0, (1 << 64) - 1)
TOKEN = Token(b"G" * 16, Position(300), Epoch(70_000))


@given(st.binary(min_size=16, max_size=16), NUMBERS, NUMBERS)
def test_there_and_back(grid_id: bytes, control: int, epoch: int) -> None:
    token = Token(grid_id, Position(control), Epoch(epoch))
    text = str(token)
    assert Token.parse(text) == token and Token.parse(f"  {text}\n") == token
    assert text.isascii() and text.isprintable() and " " not in text and len(text) <= 60


def test_a_golden_text() -> None:
    assert str(TOKEN) == "tg1.R0dHR0dHR0dHR0dHR0dHR6wC8KIEs_r1OA"
    assert f"{TOKEN}" == str(TOKEN)


@given(st.integers(0, len(str(TOKEN)) - 1), st.characters())
def test_a_changed_character_is_noticed(at: int, character: str) -> None:
    text = str(TOKEN)
    changed = text[:at] + character + text[at + 1 :]
    try:
        assert Token.parse(changed) == TOKEN  # the last one has bits to spare, and space around does no harm
    except InvalidTokenError:
        assert changed != text


@pytest.mark.parametrize("cut", range(len(str(TOKEN))))
def test_a_part_of_a_token(cut: int) -> None:
    with pytest.raises(InvalidTokenError):
        Token.parse(str(TOKEN)[:cut])


@pytest.mark.parametrize(
    "text", ["", "812", "tg1.", "tg2." + str(TOKEN)[4:], str(TOKEN) * 3, "tg1." + "/" * 30, "tg1.ä"]
)
def test_what_is_no_token(text: str) -> None:
    with pytest.raises(InvalidTokenError):
        Token.parse(text)


@pytest.mark.parametrize(
    "rest", [b"\x01", b"\x01\x01\x01", b"\x80", b"\x01" + b"\xff" * 9 + b"\x02", b"\x80" * 12 + b"\x01\x01"]
)
def test_a_token_whose_check_holds_and_whose_content_does_not(rest: bytes) -> None:
    body = b"G" * 16 + rest
    with pytest.raises(InvalidTokenError, match="damaged"):
        Token.parse("tg1." + urlsafe_b64encode(body + crc32(body).to_bytes(4, "big")).decode().rstrip("="))


async def test_a_second_process_reads_what_the_first_has_seen(fake: FakeGrid, grid: Grid) -> None:
    fake.tick(3)
    await grid.map("m").put("a", 1)
    text = str(grid.token())
    fake.control, fake.epoch = 1, 1  # whom the second asks lags behind
    for token in (text, Token.parse(text)):
        async with connect("node0:1", transport=fake.transport(), token=token) as second:
            await second.map("m").get("a")
            assert second.token() == grid.token()
    carry = fake.requests[-1].carry
    assert Token(carry.grid_id, Position(carry.control), Epoch(carry.epoch)) == grid.token()


async def test_a_token_of_another_grid(fake: FakeGrid, grid: Grid) -> None:
    other = Token(b"H" * 16, Position(1), Epoch(1))
    with pytest.raises(WrongGridError, match=r"48484848.*47474747"):
        grid.advance(str(other))
    with pytest.raises(WrongGridError):
        async with connect("node0:1", transport=fake.transport(), token=other):
            raise AssertionError("connected")
    assert grid.token().grid_id == fake.grid_id


async def test_a_bad_token_is_refused_before_anybody_is_asked(fake: FakeGrid) -> None:
    with pytest.raises(InvalidTokenError):
        async with connect("node0:1", transport=fake.transport(), token="tg1.nonsense"):
            raise AssertionError("connected")
    assert not fake.hellos
