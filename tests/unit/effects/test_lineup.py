"""Who is next: oldest first, one of each key at a time."""

from __future__ import annotations

import random

import pytest
from tidegrid.effects.lineup import Lineup
from tidegrid.effects.place import Place, Waiting


def change(key: str, number: int) -> Waiting:
    return Waiting(Place(1, 0, 0, number), "event", key.encode(), b"", 0, 0)


def test_one_of_a_key_at_a_time_and_the_oldest_first() -> None:
    lineup = Lineup(by_key=True)
    for key, number in (("a", 1), ("a", 2), ("b", 3), ("a", 4)):
        lineup.add(change(key, number))
    assert lineup.take() == change("a", 1)
    assert lineup.take() == change("b", 3)
    assert lineup.take() is None and len(lineup) == 2
    lineup.finish(change("a", 1))
    assert lineup.take() == change("a", 2)
    lineup.finish(change("b", 3))
    assert lineup.take() is None
    lineup.finish(change("a", 2))
    assert lineup.take() == change("a", 4) and len(lineup) == 0


def test_one_at_a_time_is_the_order_they_came() -> None:
    lineup = Lineup(by_key=True)
    came = [change(random.Random(number).choice("abc"), number) for number in range(50)]
    for one in came:
        lineup.add(one)
    taken = []
    while (one_taken := lineup.take()) is not None:
        taken.append(one_taken)
        lineup.finish(one_taken)
    assert taken == came


def test_keys_that_do_not_count() -> None:
    lineup = Lineup(by_key=False)
    for number in (1, 2, 3):
        lineup.add(change("a", number))
    assert [lineup.take(), lineup.take(), lineup.take(), lineup.take()] == [*(change("a", n) for n in (1, 2, 3)), None]
    lineup.finish(change("a", 2))


@pytest.mark.parametrize("seed", range(20))
def test_of_each_key_in_order_never_two_at_once(seed: int) -> None:
    rng = random.Random(seed)
    lineup = Lineup(by_key=True)
    under_way: list[Waiting] = []
    ended: dict[bytes, list[int]] = {}
    number = 0
    while number < 200 or under_way or len(lineup):
        action = rng.random()
        if action < 0.4 and number < 200:
            number += 1
            lineup.add(change(rng.choice("abcd"), number))
        elif action < 0.7:
            one = lineup.take()
            if one is not None:
                assert one.raw_key not in {other.raw_key for other in under_way}
                under_way.append(one)
        elif under_way:
            one = under_way.pop(rng.randrange(len(under_way)))
            ended.setdefault(one.raw_key, []).append(one.place.row)
            lineup.finish(one)
    assert sum(map(len, ended.values())) == 200
    assert all(rows == sorted(rows) for rows in ended.values())
