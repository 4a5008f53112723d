"""Who is to own what: even shares, little that moves when a member comes or goes, and the same answer everywhere."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tidegrid.grid.model.ids import NodeId
from tidegrid.grid.ring.assignment import assignment


def nodes(*numbers: int) -> frozenset[NodeId]:
    return frozenset(map(NodeId, numbers))


@given(st.integers(1, 40), st.frozensets(st.integers(0, 99).map(NodeId), min_size=1, max_size=9))
def test_everything_is_owned_by_members_and_nobody_takes_more_than_an_even_share(
    partitions: int, members: frozenset[NodeId]
) -> None:
    owners = assignment(partitions, members)
    assert set(owners) == set(range(partitions)) and set(owners.values()) <= members
    assert max(Counter(owners.values()).values()) <= -(-partitions // len(members))


def test_every_version_and_every_process_answers_alike() -> None:
    """Two answers in one grid would hand partitions to and fro for ever."""
    assert dict(sorted(assignment(8, nodes(1, 2, 3)).items())) == {0: 1, 1: 2, 2: 2, 3: 1, 4: 2, 5: 3, 6: 3, 7: 1}
    assert dict(sorted(assignment(8, nodes(0, 1, 2, 3)).items())) == {0: 1, 1: 2, 2: 0, 3: 0, 4: 2, 5: 3, 6: 3, 7: 1}


@pytest.mark.parametrize("members", range(2, 9))
def test_when_a_member_goes_little_else_moves(members: int) -> None:
    """Its own partitions have to go; of the others few follow, where shares were full."""
    everybody = nodes(*range(members))
    before = assignment(64, everybody)
    for gone in everybody:
        after = assignment(64, everybody - {gone})
        others = [number for number, owner in before.items() if owner != gone]
        moved = sum(after[number] != before[number] for number in others)
        assert moved <= len(others) // 5, f"{moved} of {len(others)} move though {gone} never had them"


def test_a_member_that_comes_takes_from_all() -> None:
    before, after = assignment(64, nodes(0, 1, 2)), assignment(64, nodes(0, 1, 2, 3))
    taken = Counter(before[number] for number, owner in after.items() if owner == 3)
    assert set(taken) == {0, 1, 2}


def test_the_scores_of_neighbours_have_nothing_in_common() -> None:
    owners = [owner for _, owner in sorted(assignment(200, nodes(0, 1)).items())]
    assert 60 < sum(one != other for one, other in pairwise(owners)) < 140
