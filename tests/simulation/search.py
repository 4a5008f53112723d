"""Searches for the seed that shows each rule switched off: `make mutations`, or some of them by name:

    python -m tests.simulation.search lent_for_ever never_filled

Prints a table of rule, what was switched off, and how many seeds it took; fails when one was not noticed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Sequence

import pytest
from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn

from tests.simulation.mutations import MUTATIONS, Mutation
from tests.simulation.options import Options
from tests.simulation.play import run

BY_NAME = {mutation.name: mutation for mutation in MUTATIONS}


def search(mutation: Mutation, patch: pytest.MonkeyPatch) -> tuple[int, str]:
    """(how many seeds it took, what the last one showed); 0: none did."""
    mutation.patch(patch)
    for seed in range(mutation.seeds):
        try:
            run(Options.of(seed, **mutation.options))
        except TypeError as error:
            if mutation.name in str(error):  # which shows nothing of the rule
                raise AssertionError(f"{mutation.name} does not fit what it replaces any more: {error}") from None
            return seed + 1, f"{type(error).__name__}: {error}"
        except Exception as error:
            return seed + 1, f"{type(error).__name__}: {error}"
    return 0, ""


def _search(name: str) -> tuple[str, int, str]:
    with pytest.MonkeyPatch.context() as patch:
        return (name, *search(BY_NAME[name], patch))


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="MUTATION", help="all unless named")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.names) - set(BY_NAME):
        parser.error(f"there is no mutation {', '.join(sorted(unknown))}; see tests/simulation/mutations.py")
    names = chosen.names or list(BY_NAME)
    found: dict[str, tuple[int, str]] = {}
    columns = (*Progress.get_default_columns(), TimeElapsedColumn())
    with (
        Progress(*columns, console=Console(stderr=True)) as progress,
        multiprocessing.get_context("spawn").Pool(chosen.jobs) as pool,
    ):
        task = progress.add_task("searching", total=len(names))
        for name, seeds, shown in pool.imap_unordered(_search, names):
            found[name] = (seeds, shown)
            progress.advance(task)
    print("| rule | switched off | seeds | what shows first |\n|---|---|---|---|")
    for name in names:
        seeds, shown = found[name]
        words = " ".join(shown.replace("|", "/").split())[:70]
        print(f"| {BY_NAME[name].rule} | {name.replace('_', ' ')} | {seeds or 'not noticed'} | {words} |")
    missed = [name for name, (seeds, _) in found.items() if not seeds]
    print(f"\n{len(found)} rules switched off, {len(missed)} not noticed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
