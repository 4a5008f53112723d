"""Read-only values, seeded numbers, and keys read by their declared fields."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tidegrid.grid.model.keys import decode_key, encode_key
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.model.maps import KEY_TYPES, KeyField
from tidegrid.grid.model.values import decode_value, encode_value
from tidegrid.triggers import decoded
from tidegrid.triggers.decoded import DecodedValues, LookedUp
from tidegrid.triggers.frozen import FrozenDict, FrozenList, freeze, thaw
from tidegrid.triggers.key_reader import key_reader
from tidegrid.triggers.seeded import SeededRandom

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(VALUES)
def test_frozen_values_read_and_encode_as_they_are(value):
    frozen = freeze(value)
    assert frozen == value
    assert encode_value(frozen, Limits()) == encode_value(value, Limits())
    for plain in (thaw(frozen), copy.deepcopy(frozen)):
        assert plain == value
        assert type(plain) is type(value)


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.__setitem__("a", 1),
        lambda v: v.__delitem__("a"),
        lambda v: v.update(a=1),
        lambda v: v.setdefault("b", 1),
        lambda v: v.pop("a"),
        lambda v: v.popitem(),
        lambda v: v.clear(),
        lambda v: v.__ior__({}),
        lambda v: v["a"].append(1),
        lambda v: v["a"].__setitem__(0, 1),
        lambda v: v["a"].__iadd__([1]),
        lambda v: v["a"].sort(),
        lambda v: v["a"][1].update(c=1),
    ],
)
def test_frozen_values_refuse_to_change(change):
    value = freeze({"a": [2, {"b": 1}]})
    with pytest.raises(TypeError, match="read-only; change a copy"):
        change(value)
    assert value == {"a": [2, {"b": 1}]}


def test_copies_of_frozen_values_are_plain():
    assert type(copy.copy(FrozenDict(a=1))) is dict
    assert type(copy.copy(FrozenList([1]))) is list
    assert type(dict(FrozenDict(a=1))) is dict


def test_decoded_values_are_decoded_once_and_bounded(monkeypatch):
    monkeypatch.setattr(decoded, "ENTRIES_MAX", 2)
    values, names = DecodedValues(), LookedUp()
    encoded = encode_value({"a": 1}, Limits())
    assert values[encoded] is values[bytes(bytearray(encoded))]
    for number in range(5):
        assert values[encode_value([number], Limits())] == [number]
        names.keep(str(number), None)
        assert str(number) in names
        assert len(values) <= 2
        assert len(names) <= 2
    large = encode_value("x" * 5000, Limits())
    assert values[large] == "x" * 5000
    assert large not in values


ELEMENTS = {
    "str": st.text(),
    "int": st.integers(0, 70_000) | st.integers(-(2**63), 2**64 - 1),
    "bool": st.booleans(),
    "bytes": st.binary(),
    "float": st.floats(allow_nan=False),
    "any": st.none() | st.integers(0, 3) | st.booleans() | st.sampled_from([0.0, 1.0]) | st.tuples(st.text()),
}


@given(st.data())
def test_a_key_reader_reads_as_decode_key(data):
    types = data.draw(st.lists(st.sampled_from(KEY_TYPES), max_size=4))
    read = key_reader(tuple(KeyField(f"f{n}", kind) for n, kind in enumerate(types)))
    key = data.draw(st.tuples(*[ELEMENTS[kind] for kind in types or ["any"]]))
    encoded = encode_key(key)
    found = read(encoded)
    assert found == decode_key(encoded)
    assert list(map(type, found)) == list(map(type, decode_key(encoded)))


@pytest.mark.parametrize("number", [0, 1, 255, 256, 65_535, 65_536, 2**64 - 1, -1, -(2**63)])
@pytest.mark.parametrize("text", ["", "a", "\0", "a\0", "\0b\0", "\x01é\U0001f30a"])
def test_a_key_reader_at_the_edges(number, text):
    read = key_reader((KeyField("n", "int"), KeyField("s"), KeyField("m", "int")))
    key = (number, text, number)
    assert read(encode_key(key)) == key


def test_seeded_numbers_are_fixed_for_ever():
    """Golden: a change of these numbers changes what old writes replay to."""
    random = SeededRandom(b"seed")
    assert [random.randint(1, 6) for _ in range(8)] == GOLDEN_DICE
    assert random.random() == GOLDEN_FLOAT


GOLDEN_DICE = [3, 3, 4, 5, 1, 6, 2, 3]
GOLDEN_FLOAT = 0.291931118846777


@given(st.binary(), st.integers(-(10**9), 10**9), st.integers(0, 10**20))
def test_seeded_numbers_stay_in_range_and_repeat(seed, low, width):
    one, other = SeededRandom(seed), SeededRandom(seed)
    drawn = one.randint(low, low + width)
    assert low <= drawn <= low + width
    assert other.randint(low, low + width) == drawn
    assert 0 <= one.random() < 1
    assert 2.0 <= one.uniform(2.0, 3.0) <= 3.0
    assert 0 <= one.getrandbits(700) < 2**700
    assert one.getrandbits(0) == 0


def test_seeded_choice_and_shuffle():
    random = SeededRandom(b"")
    deck = list(range(52))
    random.shuffle(deck)
    assert deck != sorted(deck)
    assert sorted(deck) == list(range(52))
    assert {random.choice("abc") for _ in range(100)} == set("abc")
    counts = [0] * 5
    for _ in range(5000):
        counts[random.randrange(5)] += 1
    assert all(850 < count < 1150 for count in counts)


@pytest.mark.parametrize(
    "draw", [lambda r: r.randint(2, 1), lambda r: r.randrange(0), lambda r: r.choice([]), lambda r: r.getrandbits(-1)]
)
def test_nothing_to_draw_from(draw):
    with pytest.raises(ValueError, match=r"."):
        draw(SeededRandom(b""))


def test_decode_value_is_what_freeze_starts_from():
    assert freeze(decode_value(encode_value([{"a": [1]}], Limits()))) == [{"a": [1]}]
