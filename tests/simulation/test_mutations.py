"""Every rule is needed: switched off, it shows within the seeds that `mutations` states. Most are slow to search."""

from __future__ import annotations

import pytest

from tests.simulation.mutations import MUTATIONS, Mutation
from tests.simulation.search import search


def check(mutation: Mutation, patch: pytest.MonkeyPatch, record: pytest.FixtureRequest) -> None:
    seeds, shown = search(mutation, patch)
    print(f"{mutation.rule} | {mutation.name} | {seeds} | {shown[:120]}")
    assert seeds, f"{mutation.name} was not caught by {mutation.seeds} seeds"


@pytest.mark.parametrize("mutation", [one for one in MUTATIONS if one.quick], ids=lambda one: one.name)
def test_is_caught(mutation: Mutation, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    check(mutation, monkeypatch, request)


@pytest.mark.mutations
@pytest.mark.parametrize("mutation", [one for one in MUTATIONS if not one.quick], ids=lambda one: one.name)
def test_is_caught_in_time(mutation: Mutation, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    check(mutation, monkeypatch, request)
