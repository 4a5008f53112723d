"""Compares what a node holds, or has recovered, with the judge's model: chains, request memory and reads as of an epoch."""

from __future__ import annotations

from tidegrid.grid.engine.partition import Partition
from tidegrid.grid.engine.reads import ReadRequest, ScanRequest
from tidegrid.grid.engine.requests import session_created
from tidegrid.grid.model.ids import Epoch
from tidegrid.grid.store.table import Table

from tests.simulation.judge import Judge, Version, Violation


def check_partition(judge: Judge, partition: Partition, *, reclaimed_to: int) -> None:
    """I11, I5: every chain of the partition at its tail is the model's, but for what lies before the horizon."""
    for name in set(judge.chains) | set(partition.tables):
        for generation in judge.generations.numbers(name):
            table = partition.tables.generation(name, generation)
            if table is not None or name not in partition.tables:
                _check_table(judge, partition, name, generation, table, reclaimed_to)
    _check_memory(judge, partition)
    judge.parked.check(partition)


def _check_table(
    judge: Judge, partition: Partition, name: str, generation: int, table: Table | None, reclaimed_to: int
) -> None:
    known = judge.generations
    wanted = {key: known.chain(name, key, generation, partition.tail) for key in known.keys(name, partition.id)}
    held = set(table.keys()) if table is not None else set()
    if unknown := held - {key for key, chain in wanted.items() if chain}:
        raise Violation(f"I11: partition {partition.id} holds {name} {unknown}, which no valid record wrote")
    for key, chain in wanted.items():
        found = [
            Version(epoch, position, number, value)
            for value, number, (epoch, position, _) in (table.chain(key) if table is not None else [])
        ]
        _compare_chain(judge, name, key, chain, found, reclaimed_to)


def _compare_chain(
    judge: Judge, name: str, key: bytes, chain: list[Version], found: list[Version], reclaimed_to: int
) -> None:
    missing = len(chain) - len(found)
    if missing < 0 or chain[missing:] != found:
        raise Violation(f"I11: the chain of {name} {key!r} is {found}, the log says {chain}")
    for at in range(missing):
        later = chain[at + 1] if at + 1 < len(chain) else None
        superseded = later is not None and later.epoch <= reclaimed_to
        buried = chain[at].value is None and chain[at].epoch <= reclaimed_to - judge.session_epochs
        if not superseded and not buried:
            raise Violation(f"I11: {chain[at]} of {name} {key!r} is lost (horizon {reclaimed_to})")


def check_numbering(live: Partition, recovered: Partition) -> None:
    """Whoever opens the partition next goes on with the numbers with which its owner would have gone on."""
    several = {name for name, _ in live.tables.shelved()}
    for name, table in live.tables.items():
        again = recovered.tables.get(name)
        if again is None or name in several:  # each generation has numbers of its own
            continue
        for key in table.keys() & again.keys():
            number, known = table.latest_version(key), again.latest_version(key)
            if number != known:
                raise Violation(f"{name} {key!r} goes on from {number}, recovered from {known}")


def _check_memory(judge: Judge, partition: Partition) -> None:
    """I7: what is valid is known for the whole life of its session, with its version and epoch; nothing else is."""
    for (session, number, sequence), outcome in judge.valid.items():
        if number != partition.id or judge.positions_of[session, number, sequence] > partition.tail:
            continue
        known = partition.memory.get(session)
        if known is None:
            if session[0] == 1 and judge.closed > session_created(session) + judge.session_epochs:
                continue
            raise Violation(f"I7: partition {number} has forgotten session {session.hex()}")
        state = known.look_up(sequence)
        if state.state == "accepted":
            if (state.version, state.epoch) != outcome and not (session[0] == 2 and state.version == 0):
                raise Violation(f"I7: sequence {sequence} is remembered as {state}, the log says {outcome}")
        elif not (state.state == "refused" and sequence < known.lowest):
            raise Violation(f"I7: sequence {sequence} of {session.hex()} is remembered as {state.state}")
    for session, _, _, runs in partition.memory.rows():
        before = 0
        for first, last, _, _ in runs:
            if first <= before:
                raise Violation(f"the runs of session {session.hex()} overlap: {runs}")
            before = last
            for sequence in range(first, last + 1):
                if (session, partition.id, sequence) not in judge.valid:
                    raise Violation(f"I12: sequence {sequence} is remembered as accepted and is not in the log")


def check_read(judge: Judge, request: ReadRequest, closed: int) -> None:
    """The answer of a read as of a closed epoch, at the moment of the answer."""
    epoch = request.as_of
    if epoch > closed:
        raise Violation(f"R1: answered as of {epoch}, closed is {closed}")
    if request.generation not in {judge.generations.seen(request.map, before) for before in range(epoch, closed + 1)}:
        raise Violation(f"I5: {request.map} was read in generation {request.generation}, closed is {closed}")
    rows = zip(request.keys, request.values, request.versions, request.epochs, strict=True)
    if isinstance(request, ScanRequest):
        found = {key: (value, version, stamp) for key, value, version, stamp in rows}
        wanted = {}
        for key in judge.chains[request.map]:
            if judge.keys.partition(request.map, key) == request.partition:
                row = row_as_of(judge, request.map, key, epoch, request.generation)
                if row[1]:
                    wanted[key] = row
        if found != wanted or list(found) != sorted(found):
            raise Violation(f"I5: scan of {request.map} in {request.partition} as of {epoch}: {found}, not {wanted}")
        return
    for key, value, version, stamp in rows:
        wanted_row = row_as_of(judge, request.map, key, epoch, request.generation)
        if (value, version, stamp) != wanted_row:
            raise Violation(
                f"I5: {request.map} {key!r} as of {epoch} is {(value, version, stamp)}, the log says {wanted_row}"
            )


def row_as_of(judge: Judge, name: str, key: bytes, epoch: int, generation: int) -> tuple[bytes, int, int]:
    version = judge.generations.as_of(name, key, generation, epoch)
    if version is None or version.value is None:
        return b"", 0, 0
    return version.value, version.number, version.epoch


def full_scan(map_name: str, partition: Partition, as_of: Epoch, reply_to: object) -> ScanRequest:
    return ScanRequest(map_name, partition.id, b"", None, 10_000, False, as_of, Epoch(0), reply_to)
