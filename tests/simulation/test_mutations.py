"""Every rule is needed: switched off, it shows within the seeds that `mutations` states. Most are slow to search."""

from __future__ import annotations

import pytest

from tests.simulation.mutations import MUTATIONS, Mutation
from tests.simulation.options import Options
from tests.simulation.play import run


def search(mutation: Mutation, patch: pytest.MonkeyPatch) -> tuple[int, str]:
    """(how many seeds it took, what the last one showed); 0: none did."""
    mutation.patch(patch)
    for seed in range(mutation.seeds):
        options = Options.of(seed, **mutation.options)
        try:
            run(options)
        except Exception as error:
            return seed + 1, f"{type(error).__name__}: {error}"
    return 0, ""


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
