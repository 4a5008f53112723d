from __future__ import annotations

import enum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tidegrid.client import Grid
from tidegrid.client.map_key import key_encoder
from tidegrid.grid.model.errors import InvalidKeyError
from tidegrid.grid.model.key_grammar import key_pattern
from tidegrid.grid.model.keys import encode_key
from tidegrid.grid.model.maps import KeyField, MapSpec

from tests.unit.client.fake_grid import FakeGrid


class Gate(enum.IntEnum):
    A = 1


@pytest.mark.parametrize("key", [(2013, 1), ("2013", "UA"), "2013,UA", (True, "UA"), (2013, "UA", 1), (2013.0, "UA")])
async def test_what_is_no_key_of_the_map_is_told(fake: FakeGrid, grid: Grid, key: object) -> None:
    fake.add_map("flights", key=("year:int", "carrier"))
    flights = grid.map("flights")
    wants = r"map 'flights' wants a key of \(year:int, carrier:str\), not "
    with pytest.raises(InvalidKeyError, match=wants) as raised:
        await flights.get(key)
    assert raised.value.fields["map"] == "flights"
    with pytest.raises(InvalidKeyError, match=wants):
        await flights.get_many([(2013, "UA"), key])
    with pytest.raises(InvalidKeyError, match=wants):
        await flights.why(key)
    with pytest.raises(InvalidKeyError, match=wants):
        await flights.delete(key)
    with pytest.raises(InvalidKeyError, match=wants):
        _ = [version async for version in flights.history(key)]


async def test_keys_of_the_map_are_read(fake: FakeGrid, grid: Grid) -> None:
    fake.add_map("flights", key=("year:int", "carrier"))
    await grid.map("flights").put((1, "UA"), "x")
    for key in ((1, "UA"), (Gate.A, "UA")):
        entry = await grid.map("flights").get(key)
        assert entry is not None and entry.value == "x"


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"prefix": "2013"}, r"none begins with '2013'"),
        ({"prefix": (2013, 1)}, r"none begins with \(2013, 1\)"),
        ({"prefix": (2013, "UA", 5)}, r"none begins with"),
        (
            {"prefix": (2013, "UA")},
            r"is a whole key of map 'flights', and a prefix has fewer elements; `get` reads one key",
        ),
        (
            {"begin": "2013"},
            r"keys of map 'flights' are \(year:int, carrier:str\), so '2013' lies before or after all of them",
        ),
        ({"begin": 2013, "end": (2013, 5)}, r"so \(2013, 5\) lies before or after"),
        ({"end": (True,)}, r"so \(True,\) lies before or after"),
    ],
)
async def test_a_scan_of_what_no_key_can_be_is_told(
    fake: FakeGrid, grid: Grid, asked: dict[str, Any], words: str
) -> None:
    fake.add_map("flights", key=("year:int", "carrier"))
    with pytest.raises(InvalidKeyError, match=words) as raised:
        _ = [entry async for entry in grid.map("flights").scan(**asked)]
    assert raised.value.fields["map"] == "flights"


async def test_scans_between_what_lies_among_the_keys(fake: FakeGrid, grid: Grid) -> None:
    fake.add_map("flights", key=("year:int", "carrier"))
    flights = grid.map("flights")
    for key in ((1, "UA"), (2, "AA"), (2, "UA"), (3, "UA")):
        await flights.put(key, "x")

    async def found(**asked: Any) -> list[tuple[Any, ...]]:
        return [entry.key async for entry in flights.scan(**asked)]

    assert await found(prefix=2) == await found(prefix=(2,)) == [(2, "AA"), (2, "UA")]
    assert len(await found(prefix=())) == len(await found()) == 4
    assert await found(begin=1.5, end=(2, "B")) == [(2, "AA")]
    assert await found(begin=(Gate.A, "UA"), end=2) == [(1, "UA")]


scalars = st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.floats(allow_nan=False), st.text(max_size=3))
elements = st.one_of(scalars, st.binary(max_size=3), st.tuples(scalars), st.just(Gate.A))
kinds = st.lists(st.sampled_from(["str", "int", "float", "bool", "bytes", "any"]), max_size=3)


@given(kinds, st.lists(elements, min_size=1, max_size=3))
def test_it_takes_what_a_node_takes(types: list[str], parts: list[object]) -> None:
    spec = MapSpec("m", key=tuple(KeyField(f"f{at}", kind) for at, kind in enumerate(types)))
    key = tuple(parts)
    encoded = encode_key(key)
    if key_pattern(spec.key).fullmatch(encoded):
        assert key_encoder(spec, 4096)(key) == encoded
    else:
        with pytest.raises(InvalidKeyError):
            key_encoder(spec, 4096)(key)
