"""The grid as a client sees it: `connect` to it, take its maps, wait for its epochs.

    async with connect("localhost:7411") as grid:
        ack = await grid.map("flights.raw").put(key, row)

A Grid belongs to the event loop it was opened in. It is opened by `connect`, and closed at the end of the block: what
is under way is finished within the deadline.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from tidegrid.client.closes import Closes
from tidegrid.client.commit import Commits
from tidegrid.client.deploy import (
    SAMPLE_WRITES,
    Confirm,
    Deployed,
    DeploymentEntry,
    Module,
    content_of,
    deploy,
    deployments,
    resume,
)
from tidegrid.client.dispatcher import Dispatcher, backoff
from tidegrid.client.errors import error_of
from tidegrid.client.groups import AckWhen, CommitGroup
from tidegrid.client.grpc_transport import GrpcTransport, TlsOptions
from tidegrid.client.holds import HOLD_SECONDS, Hold, holding
from tidegrid.client.map import Map
from tidegrid.client.moment import Moment, check_number
from tidegrid.client.parked import ParkedWrite, Redriven, parked, redrive
from tidegrid.client.regenerate import Progress as RegenerateProgress
from tidegrid.client.regenerate import first_epoch_after, generations, regenerate
from tidegrid.client.routing import spec_message
from tidegrid.client.snapshot import Snapshot, held_later
from tidegrid.client.token import Token, token_of
from tidegrid.client.transport import Transport
from tidegrid.grid.model.errors import CallerError, ConfigurationError, GridError, PeerError, UnknownMapError
from tidegrid.grid.model.ids import Epoch
from tidegrid.grid.model.maps import KeyField, MapKind, MapSpec
from tidegrid.v1 import control_pb2, grid_pb2

DEADLINE_SECONDS = 10.0


class MemberStatus(NamedTuple):
    """What one node says of itself, or why it does not."""

    member: control_pb2.Member
    status: grid_pb2.NodeStatus | None
    error: GridError | None


class Grid:
    def __init__(self, dispatcher: Dispatcher, deadline: float) -> None:
        self._dispatcher = dispatcher
        self._deadline = deadline
        self._maps: dict[tuple[str, Moment], Map] = {}
        self._loop = asyncio.get_running_loop()
        self._commits = Commits(dispatcher)
        self._closes = Closes(dispatcher)

    def map(self, name: str, *, generation: int | None = None) -> Map:
        """The map of that name; whether there is one shows at its first use (UnknownMapError).

        `generation`: of a derived table, for `get`, `get_many`, `scan` and `why` of that one alone, while it is kept
        (UnknownGenerationError); else they are of the one that readers see.
        """
        check_number("generation", generation, 1, 1 << 32)
        return self._map(name, Moment(generation=generation or 0))

    def seen_at(self, name: str, epoch: int) -> Map:
        """In the generation that readers saw when this epoch was the highest closed; for snapshots, which never change."""
        return self._map(name, Moment(seen_at=epoch))

    def _map(self, name: str, pinned: Moment) -> Map:
        known = self._maps.get((name, pinned))
        if known is None:
            known = Map(self._dispatcher, self._closes, name, self._deadline, pinned)
            if not pinned.seen_at:
                self._maps[name, pinned] = known
        return known

    @property
    def maps(self) -> dict[str, MapSpec]:
        """The maps that were active when a node last told; `refresh` asks again."""
        routing = self._dispatcher.routing
        return dict(routing.maps) if routing is not None else {}

    @property
    def id(self) -> bytes:
        """16 bytes that no other grid has."""
        return self._dispatcher.causality.grid_id

    def token(self) -> Token:
        """What this client has seen of the grid. Hand it, or its text, to another process: see `connect`, `advance`."""
        return self._dispatcher.causality.token()

    def advance(self, token: Token | str) -> None:
        """From now on reads include what the giver of `token` had seen. Raises InvalidTokenError, WrongGridError."""
        self._dispatcher.causality.advance(token_of(token))

    @property
    def closed(self) -> Epoch:
        """The highest closed epoch that any answer has told: a lower bound."""
        return self._dispatcher.closed

    @property
    def partitions(self) -> int:
        return len(self._dispatcher.partitions)

    async def refresh(self) -> None:
        """Asks a node for maps, owners and the closed epoch. Raises UnavailableError."""
        await self._dispatcher.refresh()

    async def wait_closed(self, epoch: int, *, deadline: float | None = None) -> Epoch:
        """Returns once `epoch` is closed, with the highest closed epoch. Raises DeadlineError, EpochTooNewError."""
        return await self._closes.wait(epoch, self._until(deadline))

    @asynccontextmanager
    async def snapshot(
        self,
        *,
        as_of: int | datetime | None = None,
        at_least: int | None = None,
        hold: bool | None = None,
        deadline: float | None = None,
    ) -> AsyncIterator[Snapshot]:
        """Maps as of one closed epoch: the newest, or `as_of` (an epoch, or a time with a time zone).

        The newest closed epoch is a little in the past: `at_least=ack.epoch` waits until the snapshot has that write.
        A snapshot that lives for longer than a second keeps its epoch readable by a hold. `hold=True` takes it at
        once, before the block begins (for an epoch that history is about to leave); `hold=False` takes none.
        Raises EpochTooOldError, EpochTooNewError, DeadlineError, with `hold=True` TooManyHoldsError.
        """
        until = self._until(deadline)
        if as_of is not None and at_least is not None:
            raise CallerError("give either as_of, or at_least")
        check_number("at_least", at_least, 0, 1 << 64)
        if isinstance(as_of, datetime):
            epoch = await self._closes.at(as_of, until)
        elif as_of is not None:
            check_number("as_of", as_of, 1, 1 << 64)
            await self._closes.wait(as_of, until)
            epoch = Epoch(as_of)
        elif at_least:
            epoch = await self._closes.wait(at_least, until)
        else:
            epoch = await self._closes.newest(until) or await self._closes.wait(1, until)
        seen_at = (
            epoch if as_of is None else max(epoch, await self._closes.newest(until))
        )  # the past, as it is seen now
        snapshot = Snapshot(self, epoch, seen_at)
        if hold:
            async with self.hold(epoch=epoch, deadline=max(0.0, until - self._loop.time())) as snapshot.hold:
                yield snapshot
        elif hold is None:
            async with held_later(snapshot, lambda: self.hold(epoch=epoch)):
                yield snapshot
        else:
            yield snapshot

    def hold(
        self,
        *,
        name: str | None = None,
        epoch: int | None = None,
        seconds: float = HOLD_SECONDS,
        owner: str | None = None,
        deadline: float | None = None,
    ) -> AbstractAsyncContextManager[Hold]:
        """Keeps reads as of `epoch` (the newest closed one) and later possible while the block runs.

            async with grid.hold(name="nightly report") as hold:
                await prices.get(key, as_of=hold.epoch)

        It renews itself and is released at the end; if this client dies, it expires after `seconds`. `name`: of its
        own unless given; to take a name that somebody has ends the other's hold. `owner` is for people. The grid bounds
        how long an epoch is held (an hour, unless configured) and how much memory holds cost: `hold.check()` raises
        HoldLostError when it has ended this one. Raises EpochTooOldError, EpochTooNewError, TooManyHoldsError,
        DeadlineError.
        """
        check_number("epoch", epoch, 1, 1 << 64)
        return holding(self._dispatcher, name, epoch or 0, seconds, owner, self._until(deadline))

    async def release_hold(self, name: str, *, deadline: float | None = None) -> None:
        """Ends a hold, whoever has it: its owner is told HoldLostError. No error if there is none of that name."""
        request = grid_pb2.HoldRequest(name=name, release=True)
        await self._dispatcher.ask("Hold", request, self._until(deadline))

    def commit_group(self, *, deadline: float | None = None, ack: AckWhen = "durable") -> CommitGroup:
        """Writes that are stored together, in one epoch, or not at all.

            async with grid.commit_group() as group:
                group.map("accounts").put("A", {"balance": 70}, if_version=3)
                group.map("accounts").put("B", {"balance": 130}, if_version=8)
            group.outcome.epoch, [ack.version for ack in group.outcome.acks]

        The end of the block commits, within `deadline` seconds from there; `ack="closed"` waits for the close of the
        epoch, too. A block that raises commits nothing. Raises GroupRefusedError with the `reasons` (conflicts,
        vetoes) by write, UnknownMapError, DerivedMapError, TooLargeError, UnavailableError, and BusyError or
        StorageFullError when the grid stays overloaded: then nothing was stored. After DeadlineError or
        OutcomeUnknownError all of it may have been, or nothing.
        """
        routing = self._dispatcher.routing
        assert routing is not None
        return CommitGroup(
            self._commits,
            routing.limits,
            self.map,
            lambda epoch, seconds: self.wait_closed(epoch, deadline=seconds),
            self._deadline if deadline is None else deadline,
            ack,
        )

    async def create_map(
        self,
        spec: MapSpec | str,
        *,
        kind: MapKind = MapKind.TABLE,
        key: Sequence[str] = (),
        affinity: int = 0,
        schema: int = 0,
        deadline: float | None = None,
    ) -> Map:
        """Declares a map (`key` as in ("year:int", "carrier")) and returns it once it acts on every partition.

        Raises MapExistsError if there is another one of that name, ConfigurationError.
        """
        if isinstance(spec, str):
            spec = MapSpec(spec, kind, tuple(KeyField.parse(part) for part in key), affinity, schema=schema)
        spec.validate()
        until = self._until(deadline)
        reply = await self._dispatcher.ask("CreateMap", grid_pb2.CreateMapRequest(spec=spec_message(spec)), until)
        if reply.acts_at > 1:
            await self.wait_closed(reply.acts_at - 1, deadline=until - self._loop.time())
        tries = 0
        while True:
            await self._dispatcher.refresh()
            if spec.name in self.maps:
                return self.map(spec.name)
            if self._loop.time() >= until:
                raise UnknownMapError(
                    f"map {spec.name!r} was declared, but does not act yet; wait a moment", map=spec.name, near=""
                )
            tries += 1
            await asyncio.sleep(backoff(tries))

    async def deploy(
        self,
        *modules: str | Path | Module,
        confirm: Confirm | None = None,
        dry_run: bool = False,
        sample: int = SAMPLE_WRITES,
        by: str | None = None,
        rollback: str | bool = False,
        deadline: float | None = None,
    ) -> Deployed:
        """Replaces the trigger code of the grid: `modules` are .py files, folders of packages, installed modules, or
        (name, source). Returns once it acts at every node, with the plan and the epoch.

        `confirm` is asked with the plan; with `dry_run`, or when it says False, nothing is deployed. `sample`: so many
        recent writes of each map are run through the old and the new code for the plan. `rollback`: the content of an
        earlier deployment instead, of this hash (True: the one before). The deadline begins anew after `confirm`.
        Raises DeployNotAllowedError, TriggerModuleError, DeployRefusedError (a node cannot load it), StalePlanError.
        """
        content = content_of(modules, rollback)
        return await deploy(self._dispatcher, content, lambda: self._until(deadline), confirm, dry_run, sample, by)

    async def deployments(self, *, deadline: float | None = None) -> list[DeploymentEntry]:
        """The deployments there have been, oldest first."""
        return await deployments(self._dispatcher, self._until(deadline))

    async def regenerate(
        self,
        *maps: str,
        start: int | datetime | None = None,
        dry_run: bool = False,
        workers: int = 0,
        nice: int = 19,
        share: float = 1.0,
        rate: float = 0.0,
        by: str = "",
        progress: RegenerateProgress | None = None,
    ) -> grid_pb2.RegenerationReport:
        """Makes derived tables (none named: all) anew, beside the live ones, by running today's triggers over the raw
        writes of before today's code; returns what differs. Unless it is a `dry_run`, readers, followers and replicas see the
        new generation from one epoch on (`report.seen_from`), and the old one is kept to go back to.

        `start`: only what was written from that epoch, or that time, on; what was made of earlier writes stays as readers see it.
        It runs in `workers` processes at the grid (0: one per core but one) of that `nice`ness, each working that `share` of its
        time, at no more than `rate` raw writes a second in all (0: as fast as they can). `progress` is called a few times a
        second. Raises ConfigurationError, WrongKindError, DeployNotAllowedError (who may deploy may regenerate),
        TriggerModuleError, InUseError (one at a time). When it is cancelled or fails, call it again to go on there.
        """
        if isinstance(start, datetime):
            start = await first_epoch_after(self._closes, start, self._until(None))
        check_number("start", start, 1, 1 << 63)
        return await regenerate(self._dispatcher, maps, start or 0, dry_run, workers, nice, share, rate, by, progress)

    async def generations(self, *, deadline: float | None = None) -> list[grid_pb2.GenerationEntry]:
        """The generations of derived tables that are kept, and which of them readers see."""
        return await generations(self._dispatcher, {}, {}, "", self._until(deadline))

    async def show_generations(
        self, numbers: Mapping[str, int], *, by: str = "", deadline: float | None = None
    ) -> None:
        """Readers, followers and replicas see these generations, map -> number, from one epoch on. Returns when they do."""
        await generations(self._dispatcher, numbers, {}, by, self._until(deadline))

    async def drop_generations(self, numbers: Mapping[str, int], *, deadline: float | None = None) -> None:
        """Lets go of generations, map -> number, that nobody sees. There is no way back to them then."""
        await generations(self._dispatcher, {}, numbers, "", self._until(deadline))

    async def resume(self, trigger: str = "", *, deadline: float | None = None) -> list[str]:
        """Every node runs a suspended trigger again, or (empty) all of them; returns which were suspended.

        A trigger is suspended by a node on which it went over its time budget again and again; `status` tells. Raises
        PeerError when a node does not answer.
        """
        return await resume(self._dispatcher, trigger, self._deadline if deadline is None else deadline)

    async def parked(self, map: str | None = None, *, deadline: float | None = None) -> list[ParkedWrite]:
        """The writes that are stored and whose triggers failed (`on_error="park"`), of one map or of all. Raises UnknownMapError."""
        return await self._parked(map, self._until(deadline))

    async def _parked(self, name: str | None, until: float) -> list[ParkedWrite]:
        found = await parked(self._dispatcher, name, until)
        if name is not None and not found:
            await self.map(name).spec()  # nothing is parked of a map that does not exist, but that is not the answer
        return found

    async def redrive(
        self,
        *ids: str,
        map: str | None = None,
        all: bool = False,
        force: bool = False,
        drop: bool = False,
        deadline: float | None = None,
    ) -> list[Redriven]:
        """Runs the triggers in force now on parked writes again: those of these ids, of a map, or all.

        Their outputs are of the epoch of now. One whose key has a later version is refused as "superseded", since old
        outputs would go over newer ones: `force` does it all the same. `drop` forgets them, and makes nothing of them.
        Raises CallerError, UnknownMapError.
        """
        if bool(ids) + (map is not None) + all != 1:
            raise CallerError("say which parked writes: by their ids, map=..., or all=True")
        until = self._until(deadline)
        chosen = ids or [write.id for write in await self._parked(map, until)]
        return await redrive(self._dispatcher, chosen, force=force, drop=drop, until=until)

    async def status(self, *, deadline: float | None = None) -> list[MemberStatus]:
        """What every member says of itself; one that does not answer has its error there."""
        routing = self._dispatcher.routing
        assert routing is not None
        timeout = self._deadline if deadline is None else deadline

        async def ask(member: control_pb2.Member) -> MemberStatus:
            request = grid_pb2.StatusRequest(carry=self._dispatcher.causality.carry())
            try:
                reply = await self._dispatcher.transport.call(member, "Status", request, timeout)
            except PeerError as problem:
                return MemberStatus(member, None, problem)
            if reply.HasField("error"):
                return MemberStatus(member, None, error_of(reply.error))
            self._dispatcher.causality.observe(reply.carry)
            return MemberStatus(member, reply.status, None)

        return list(await asyncio.gather(*map(ask, routing.members)))

    def _until(self, deadline: float | None) -> float:
        return self._loop.time() + (self._deadline if deadline is None else deadline)

    async def close(self) -> None:
        """Finishes what is under way, within the deadline. Idempotent."""
        if not self._dispatcher.closing:
            await self._dispatcher.close(self._deadline)
            await self._closes.close()


@asynccontextmanager
async def connect(
    address: str | Sequence[str] = "localhost:7411",
    *,
    deadline: float = DEADLINE_SECONDS,
    tls: TlsOptions | None = None,
    transport: Transport | None = None,
    wait_ready: bool = True,
    token: Token | str | None = None,
) -> AsyncIterator[Grid]:
    """Opens a Grid on the node at `address` (or the first of several that answers) and closes it at the end.

    `deadline` is the default for every call, in seconds. `wait_ready=False` does not wait for a node that is still
    reading its log. `token`: of another client (`grid.token()`), whose reads and writes this one then sees. Raises
    UnavailableError when nothing answers, DeadlineError, ConfigurationError; InvalidTokenError, WrongGridError.
    """
    seen = None if token is None else token_of(token)
    addresses = [address] if isinstance(address, str) else list(address)
    if not addresses:
        raise ConfigurationError("give at least one address, such as localhost:7411")
    own = transport is None
    carrier: Transport = transport if transport is not None else GrpcTransport(tls)
    dispatcher = Dispatcher(carrier, addresses)
    grid = Grid(dispatcher, deadline)
    try:
        await dispatcher.start(deadline, wait_ready)
        if seen is not None:
            grid.advance(seen)
        yield grid
    finally:
        await grid.close()
        if own:
            await carrier.close()
