"""Plays runs by seed: `make simulate SEEDS=20000`, or one again:

    python -m tests.simulation.play --first-seed 7 --seeds 1 [--without loss] [--trace]

A run that breaks an invariant is made smaller, by leaving out what it fails without, and told with its last events.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn
from tidegrid.grid.engine import checkpoint, parking, partition, reference, requests, routing
from tidegrid.grid.ring import membership

from tests.simulation.options import FAULTS, Options
from tests.simulation.world import World

TRACE_SHOWN = 60
SLICES: Final = [
    (reference, "_ROWS_MAX", 3),
    (checkpoint, "ROWS_PER_SLICE", 4),
    (parking, "ROWS_PER_CHUNK", 3),
    (partition, "_EAGER_BYTES", 300),
    (requests, "DETAILED_RUNS_MAX", 4),
    (membership, "JOIN_PAUSE", 0.02),
    (routing, "LETTER_BYTES", 200),
    (routing, "SAID_AGAIN_BYTES", 150),
]


@contextmanager
def small() -> Iterator[None]:
    """Everything that is done in slices is done in small ones, and nobody waits long, so that small runs meet their seams."""
    before = [(module, name, getattr(module, name)) for module, name, _ in SLICES]
    for module, name, value in SLICES:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


def run(options: Options) -> World:
    """Raises Violation, or whatever a defect raises, with the world as its `world`."""
    world = None
    try:
        with small():
            world = World(options)
            world.play()
    except Exception as error:
        error.world = world  # type: ignore[attr-defined]
        raise
    return world


def explain(options: Options, error: BaseException) -> str:
    """Seed, options, the faults it fails without, the end of its trace, and how to see it again."""
    smaller, left_out = shrink(options, kind_of(error))
    final = error
    if left_out:
        try:
            run(smaller)
        except Exception as again:
            final = again
    without = "".join(f" --without {fault}" for fault in left_out)
    lines = [
        f"{type(final).__name__}: {final}",
        f"options: {smaller}",
        *trace(final),
        f"replay: python -m tests.simulation.play --first-seed {options.seed} --seeds 1{without} --trace",
    ]
    return "\n".join(lines)


def shrink(options: Options, kind: str) -> tuple[Options, Sequence[str]]:
    left_out = []
    for fault in FAULTS:
        smaller = options.without(fault)
        if smaller != options and fails(smaller) == kind:
            options = smaller
            left_out.append(fault)
    return options, left_out


def fails(options: Options) -> str:
    """The kind of failure: its first word, which is the letter of the invariant, if it is one."""
    try:
        run(options)
    except Exception as error:
        return kind_of(error)
    return ""


def kind_of(error: BaseException) -> str:
    return f"{type(error).__name__} {str(error).split(' ')[0]}"


def trace(error: BaseException) -> Iterator[str]:
    world = getattr(error, "world", None)
    if world is not None:
        for now, text, facts in list(world.trace)[-TRACE_SHOWN:]:
            yield f"{now:8.4f}  {' '.join((text % facts if facts else text).split())[:300]}"


@dataclass(frozen=True, slots=True)
class Played:
    """What became of one seed, small enough to pass between processes."""

    seed: int
    failure: str = ""
    records: int = 0
    writes: int = 0
    views: int = 0
    closes: int = 0


def play(seed: int, without: Sequence[str] = (), brief: bool = False) -> Played:
    options = Options.of(seed)
    for fault in without:
        options = options.without(fault)
    try:
        world = run(options)
    except Exception as error:
        told = f"{type(error).__name__}: {str(error)[:300]}" if brief else explain(options, error)
        return Played(seed, told)
    judge = world.judge
    return Played(seed, "", judge.records, len(judge.valid), judge.views, judge.closes)


def _play_all(seeds: Iterable[int], without: Sequence[str], brief: bool, jobs: int) -> Iterator[Played]:
    work = partial(play, without=without, brief=brief)
    if jobs == 1:
        yield from map(work, seeds)
        return
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap_unordered(work, seeds, chunksize=8)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--without", action="append", default=[], choices=sorted(FAULTS))
    parser.add_argument("--brief", action="store_true", help="no shrinking, one line a failure")
    parser.add_argument("--trace", action="store_true", help="where it breaks, with its traceback; one seed at a time")
    chosen = parser.parse_args(arguments)
    seeds = range(chosen.first_seed, chosen.first_seed + chosen.seeds)
    if chosen.trace:
        for seed in seeds:
            _trace(seed, chosen.without)
        return 0
    failures = records = writes = views = closes = 0
    begun = time.perf_counter()
    columns = (*Progress.get_default_columns(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("simulating", total=chosen.seeds)
        for played in _play_all(seeds, chosen.without, chosen.brief, chosen.jobs):
            progress.advance(task)
            records, writes = records + played.records, writes + played.writes
            views, closes = views + played.views, closes + played.closes
            if played.failure:
                failures += 1
                progress.console.print(f"seed {played.seed}: {played.failure}", markup=False, highlight=False)
    took = time.perf_counter() - begun
    print(
        f"{chosen.seeds:,} seeds, {failures} failures, {took:.1f} s: "
        f"{records:,} records, {writes:,} writes, {views:,} views, {closes:,} closes"
    )
    return 1 if failures else 0


def _trace(seed: int, without: Sequence[str]) -> None:
    options = Options.of(seed)
    for fault in without:
        options = options.without(fault)
    try:
        run(options)
    except Exception as error:
        print("\n".join(trace(error)))
        raise


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
