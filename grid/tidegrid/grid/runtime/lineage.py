"""Why a row is as it is: reads the partition logs for a walk back to the raw writes, and loads the code of that day.

Serves the owner of the key. Any node can read any partition log, so the walk is done here as a whole; what triggers
looked up in the tables of another node is only there, so such a step is left for that node to tell (`name`).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from tidegrid.grid.engine.lineage import Place, RecordView, Walk
from tidegrid.grid.engine.partition import Partition
from tidegrid.grid.engine.remade import MadeRow, Remade, older
from tidegrid.grid.engine.retracing import retrace
from tidegrid.grid.engine.row_search import READ_BYTES, FoundRow, RowSearch
from tidegrid.grid.log.record import DELETE, MERGE
from tidegrid.grid.model.errors import CallerError, FormatError, GridError, WrongOwnerError
from tidegrid.grid.model.ids import Epoch, PartitionId, Position, partition_log
from tidegrid.grid.ring.declarations import Deployment
from tidegrid.grid.ring.generations import FIRST
from tidegrid.grid.runtime.deployments import load_beside, modules_of
from tidegrid.grid.runtime.driver import Driver
from tidegrid.grid.store.table import Table
from tidegrid.grid.store.version import Version, order_of
from tidegrid.triggers.tracing import Tracing
from tidegrid.v1.grid_pb2 import EarlierVersion, LineageStep, WhyReply

ROWS: Final = 10
ROWS_MAX: Final = 100
_LOADED_MAX: Final = 4  # deployments kept ready to run again


class Asked(NamedTuple):
    """The `at`-th version of those that memory has of a key, in one generation of its map."""

    partition: Partition
    map: str
    key: bytes
    chain: Sequence[Version]
    at: int
    horizon: Epoch
    rows_max: int

    def before(self, since: Epoch) -> tuple[int, bool]:
        return older(self.chain, self.at, since, self.horizon)


class LineageReader:
    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._loaded: OrderedDict[tuple[Position, Epoch], Tracing] = OrderedDict()

    async def explain(
        self, map_name: str, generation: int, number: PartitionId, key: bytes, as_of: Epoch, rows_max: int
    ) -> WhyReply:
        """Of the version that readers as of `as_of` (0: the latest) see in a generation, asked for and found readable.

        Raises EpochTooOldError when the horizon has moved since, WrongOwnerError, and what the log raises.
        """
        partition = self._owned(number)
        table = partition.tables.generation(map_name, generation)
        version = None if table is None else table.as_of(key, as_of) if as_of else table.latest(key)
        control = self._driver.node.control
        several = len(control.generations.kept(map_name)) > 1 or generation != FIRST
        reply = WhyReply(generation=generation if several else 0)
        if table is None or version is None:
            return reply
        declared = control.generations.generation(map_name, generation)
        reply.since = declared.since if declared is not None else 0
        value, reply.version, (reply.epoch, reply.position, reply.time_ms) = version
        reply.found, reply.deleted, reply.value = True, value is None, value or b""
        reply.merged = control.declared[map_name].merged
        chain = table.chain(key)
        at = chain.index(version)
        asked = Asked(partition, map_name, key, chain, at, table.horizon, min(rows_max or ROWS, ROWS_MAX))
        if reply.merged:
            await self._operands(reply, asked)
        else:
            await self._versions(reply, asked)
            if version[2][0] < reply.since:
                await self._made_anew(reply, asked, at)
            else:
                await self._walk(reply, Place(number, version[2][1]), map_name, key, version[1])
        return reply

    async def name(self, step: LineageStep) -> LineageStep:
        """The step of a reply with its triggers, by the owner of its partition. Raises CallerError, WrongOwnerError."""
        self._owned(PartitionId(step.partition))
        place = Place(PartitionId(step.partition), Position(step.position))
        payload = await self._record(place)
        try:
            if payload is None:
                raise FormatError(f"there is no record {place.position} in the log of partition {place.partition}")
            view = RecordView(place, payload)
            step.cause.CopyFrom(view.row(view.numbered(step.cause_number)))
        except FormatError as error:
            raise CallerError(f"that step is of no record of this grid: {error.message}") from None
        step.effective = view.record.effective
        await self._tell(step, view)
        return step

    # What led to it ------------------------------------------------------------------------------------------------

    async def _operands(self, reply: WhyReply, asked: Asked) -> None:
        """A walk from each, the newest first, back to the one that set the state whatever was there before."""
        total, counted = asked.before(Epoch(reply.since))
        anew = [at for at in range(asked.at, -1, -1) if asked.chain[at][2][0] < reply.since][: asked.rows_max]
        logged = [(stamp, number) for _, number, stamp in asked.chain[asked.at :: -1] if stamp[0] >= reply.since]
        known = logged[: asked.rows_max]
        wanted = min(asked.rows_max, total + 1) - len(known) - len(anew) if counted else asked.rows_max - len(known)
        if wanted > 0 and not anew:
            known += [(row.stamp, row.number) for row in await self._search(asked, wanted, Epoch(reply.since))]
        room = self._driver.node.limits.answer_bytes_max
        for stamp, number in known:
            if reply.lineages and reply.ByteSize() > room:
                break
            await self._walk(reply, Place(asked.partition.id, stamp[1]), asked.map, asked.key, number)
            if reply.lineages[-1].row.op not in (MERGE, 0):
                return
        else:
            for at in anew[: asked.rows_max - len(known)]:
                if reply.lineages and reply.ByteSize() > room:
                    break
                await self._made_anew(reply, asked, at)
                if reply.lineages[-1].row.op not in (MERGE, 0):
                    return
        reply.before = max(0, total + 1 - len(reply.lineages))
        reply.uncounted = not counted

    async def _versions(self, reply: WhyReply, asked: Asked) -> None:
        """Those before, the newest first."""
        total, counted = asked.before(Epoch(reply.since))
        for value, number, stamp in asked.chain[: asked.at][::-1][: asked.rows_max]:
            _earlier(reply, number, stamp[0], stamp[2], value)
        left, (_, first, stamp) = asked.rows_max - len(reply.earlier), asked.chain[0]
        if left > 0 and first > 1 and stamp[0] >= reply.since:
            for row in await self._search(asked, left, Epoch(reply.since)):
                _earlier(reply, row.number, row.stamp[0], row.stamp[2], None if row.op == DELETE else row.value)
        room = self._driver.node.limits.answer_bytes_max
        while len(reply.earlier) > 1 and reply.ByteSize() > room:
            del reply.earlier[-1]
        reply.before = max(0, total - len(reply.earlier))
        reply.uncounted = not counted

    async def _search(self, asked: Asked, wanted: int, since: Epoch) -> list[FoundRow]:
        """Of before what memory has. Below `since` the log has another generation."""
        control, log, partition = self._driver.node.control, self._driver.log, asked.partition
        lag = control.limit_span if control.declared[asked.map].derived else 0
        search = RowSearch(partition, asked.map, asked.key, order_of(asked.chain[0]), wanted, lag)
        name = partition_log(partition.id)
        while (window := search.window) is not None and window.through >= since:
            position = await log.position_before(name, window.after)
            while search.window is window:
                records = await log.read(name, position, READ_BYTES)
                search.give(records)
                if records:
                    position = records[-1].position
        return [row for row in search.rows if row.stamp[0] >= since]

    async def _made_anew(self, reply: WhyReply, asked: Asked, at: int) -> None:
        """Of a version that a regeneration made."""
        node = self._driver.node
        control, since = node.control, Epoch(reply.since)
        fold = asked.partition.tables.fold(asked.map, since) if reply.merged else None
        row = MadeRow.of(asked.partition.id, asked.map, asked.key, asked.chain, at, fold)
        remade, then = Remade(row, control.partitions), control.deployment_at(row.stamp[0])
        lineage = remade.lineage
        while remade.wanted is not None:
            remade.give(await self._record(remade.wanted))
        if then is not None:
            lineage.deployment_then, lineage.acts_at_then = then.hash, then.acts_at
        deployed = control.deployment_at(since)
        assert deployed is not None, "it was declared by who ran it"
        lineage.deployment, lineage.acts_at = deployed.hash, deployed.acts_at
        try:
            tracing = await self._tracing(deployed, since)
        except GridError as error:
            lineage.broken = f"the code that made it does not load here: {error.message}"
        else:
            remade.tell(tracing, self._tables, node.copies, self._seed)
        for step in lineage.steps:
            step.deployment, step.acts_at = lineage.deployment, lineage.acts_at
        reply.lineages.append(lineage)
        await asyncio.sleep(0)  # authors' code has run: others have a turn

    async def _walk(self, reply: WhyReply, place: Place, map_name: str, key: bytes, version: int) -> None:
        walk = Walk(place, map_name, key, version)
        while walk.wanted is not None:
            walk.give(await self._record(walk.wanted))
        for step in walk.lineage.steps:
            await self._tell(step, walk.views[Place(PartitionId(step.partition), Position(step.position))])
            await asyncio.sleep(0)  # authors' code has run: others have a turn
        reply.lineages.append(walk.lineage)

    async def _record(self, place: Place) -> bytes | None:
        before = Position(place.position - 1)  # no position of the log perhaps, but every one after it is after this
        for record in await self._driver.log.read(partition_log(place.partition), before, 1):
            if record.position == place.position:
                return record.payload
        return None

    # Which triggers ------------------------------------------------------------------------------------------------

    async def _tell(self, step: LineageStep, view: RecordView) -> None:
        node = self._driver.node
        deployed = node.control.deployment_at(Epoch(step.effective))
        if deployed is None:
            step.untold = f"no code was in force at epoch {step.effective:,}"
            return
        step.deployment, step.acts_at = deployed.hash, deployed.acts_at
        try:
            tracing = await self._tracing(deployed, Epoch(step.effective))
        except GridError as error:
            step.untold = f"the code of that day does not load here: {error.message}"
            return
        retrace(step, view, tracing, self._tables(view.place.partition), node.copies, self._seed)

    @property
    def _seed(self) -> int:
        return int.from_bytes(self._driver.node.control.grid_id[:8], "big")

    async def _tracing(self, deployed: Deployment, epoch: Epoch) -> Tracing:
        """Raises TriggerModuleError."""
        control, limits = self._driver.node.control, self._driver.node.limits
        name = (deployed.position, control.activation_at(epoch))
        found = self._loaded.get(name)
        if found is None:
            maps = control.maps_at(epoch)
            loaded, _ = await load_beside(modules_of(deployed), maps, control.partitions, limits)
            specs = {**maps, **{spec.name: spec for spec in loaded.maps}}
            found = self._loaded[name] = Tracing(loaded, specs, control.partitions, limits)
            while len(self._loaded) > _LOADED_MAX:
                self._loaded.popitem(last=False)
        self._loaded.move_to_end(name)
        return found

    def _tables(self, number: PartitionId) -> Mapping[str, Table] | None:
        partition = self._driver.node.partitions.get(number)
        return partition.tables if partition is not None and partition.serving else None

    def _owned(self, number: PartitionId) -> Partition:
        partition = self._driver.node.partitions.get(number)
        if partition is None or not partition.serving:
            owner = self._driver.node.control.view.owner(number)
            raise WrongOwnerError(
                f"node {self._driver.node.me} does not own partition {number}; ask who does",
                partition=number,
                owner=owner.node if owner else -1,
            )
        return partition


def _earlier(reply: WhyReply, version: int, epoch: Epoch, time_ms: int, value: bytes | None) -> None:
    reply.earlier.append(
        EarlierVersion(version=version, epoch=epoch, time_ms=time_ms, deleted=value is None, value=value or b"")
    )
