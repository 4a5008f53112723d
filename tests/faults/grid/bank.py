"""Transfers by commit groups: money is moved, never made or lost, in every cut; each transfer happens once or not at all.

A transfer reads two accounts, and commits both new balances on condition of their versions, with a row of its own in
`transfers`. So balances as of any epoch are what the transfers as of that epoch amount to. A transfer whose outcome
stayed unknown is looked up by its row when the grid is whole again.
"""

from __future__ import annotations

from collections.abc import Awaitable
from itertools import count

from tidegrid.client import Entry, Grid
from tidegrid.grid.model.errors import ConflictError, GroupRefusedError

from tests.faults.grid.book import NoAnswer
from tests.faults.grid.workloads import Stage

INITIAL = 100
ACCOUNTS, TRANSFERS = "accounts", "transfers"

Rows = dict[int, tuple[int, int, int]]
"""Transfer -> (from, to, amount)."""


class Bank:
    def __init__(self, accounts: int = 24, clients: int = 4, auditors: int = 2) -> None:
        self.accounts = accounts
        self._clients = clients
        self._auditors = auditors
        self._names = count(1)
        self._stored: dict[int, int] = {}  # transfer -> epoch
        self._refused: set[int] = set()
        self._asked: Rows = {}
        self._opened = 0  # the epoch of all accounts

    @property
    def total(self) -> int:
        return self.accounts * INITIAL

    async def prepare(self, stage: Stage) -> None:
        grid = stage.clients[0]
        await grid.create_map(ACCOUNTS, key=("account:int",))
        await grid.create_map(TRANSFERS, key=("transfer:int",))
        async with grid.commit_group(deadline=30, ack="closed") as group:
            for account in range(self.accounts):
                group.map(ACCOUNTS).put(account, INITIAL, if_absent=True)
        self._opened = int(group.outcome.epoch)

    def run(self, stage: Stage) -> list[Awaitable[None]]:
        tellers = [self._transfer(stage, stage.clients[n % len(stage.clients)]) for n in range(self._clients)]
        return [*tellers, *(self._audit(stage) for _ in range(self._auditors))]

    async def _transfer(self, stage: Stage, grid: Grid) -> None:
        while not stage.stopped:
            await stage.think()
            try:
                await self._transfer_once(stage, grid)
            except (NoAnswer, GroupRefusedError):
                continue

    async def _transfer_once(self, stage: Stage, grid: Grid) -> None:
        accounts = grid.map(ACCOUNTS)
        giver, taker = stage.choose.sample(range(self.accounts), 2)
        found = await stage.book.read("balances", accounts.get_many([giver, taker]))
        if found[0] is None or found[1] is None:
            stage.book.anomaly(f"an account is gone: {giver}, {taker}: {found}")
            return
        amount = stage.choose.randint(1, 20)
        transfer = next(self._names)
        self._asked[transfer] = (giver, taker, amount)
        group = grid.commit_group(deadline=stage.patience())

        async def commit() -> None:
            async with group:
                before, after = found
                assert before is not None and after is not None
                group.map(ACCOUNTS).put(giver, before.value - amount, if_version=before.version)
                group.map(ACCOUNTS).put(taker, after.value + amount, if_version=after.version)
                group.map(TRANSFERS).put(transfer, [giver, taker, amount], if_absent=True)

        try:
            await stage.book.write(f"transfer {transfer}", commit())
        except GroupRefusedError as refused:
            self._refused.add(transfer)
            for refusal in refused.reasons:
                if not isinstance(refusal.error, ConflictError) or refusal.map != ACCOUNTS:
                    stage.book.anomaly(f"transfer {transfer} was refused because of {refusal}")
            raise
        self._stored[transfer] = group.outcome.epoch
        versions = [ack.version for ack in group.outcome.acks]
        wanted = [found[0].version + 1, found[1].version + 1, 1]
        stage.book.expect(versions == wanted, f"transfer {transfer} stored versions {versions}, not {wanted}")

    # Cuts --------------------------------------------------------------------------------------------------------

    async def _audit(self, stage: Stage) -> None:
        while not stage.stopped:
            await stage.think()
            grid = stage.client()
            newest = max(self._opened, int(grid.closed))
            epoch = (
                newest if stage.choose.random() < 0.5 else stage.choose.randint(max(self._opened, newest - 200), newest)
            )
            try:
                await self._audit_once(stage, grid, epoch)
            except NoAnswer:
                continue

    async def _audit_once(self, stage: Stage, grid: Grid, epoch: int) -> None:
        how = stage.choose.choice(["get_many", "scan", "snapshot", "both"])
        keys = range(self.accounts)
        found: list[Entry | None]
        if how == "get_many":
            found = await stage.book.read(how, grid.map(ACCOUNTS).get_many(keys, as_of=epoch))
        elif how == "snapshot":
            async with grid.snapshot(as_of=epoch) as snapshot:
                found = await stage.book.read(how, snapshot.map(ACCOUNTS).get_many(keys))
        else:
            found = list(await stage.book.read(how, _rows(grid, ACCOUNTS, epoch)))
        total = sum(entry.value for entry in found if entry is not None)
        there = sum(entry is not None for entry in found)
        stage.book.expect(
            there == self.accounts and total == self.total,
            f"{how} as of {epoch}: {there} accounts have {total}, not {self.total}",
        )
        if how == "both":
            rows = {
                entry.key[0]: tuple(entry.value) for entry in await stage.book.read(how, _rows(grid, TRANSFERS, epoch))
            }
            self._compare(stage, epoch, [entry for entry in found if entry is not None], rows)

    def _compare(self, stage: Stage, epoch: int, accounts: list[Entry], rows: dict[int, tuple[int, ...]]) -> None:
        balances, versions = dict.fromkeys(range(self.accounts), INITIAL), dict.fromkeys(range(self.accounts), 1)
        for giver, taker, amount in rows.values():
            balances[giver] -= amount
            balances[taker] += amount
            versions[giver] += 1
            versions[taker] += 1
        for entry in accounts:
            account = entry.key[0]
            stage.book.expect(
                (entry.value, entry.version) == (balances[account], versions[account]),
                f"as of {epoch} account {account} has {entry.value} at version {entry.version}; its transfers make "
                f"{balances[account]} at version {versions[account]}",
            )
        for transfer, row in rows.items():
            stage.book.expect(self._asked.get(transfer) == row, f"nobody asked for transfer {transfer}: {row}")
            stored = self._stored.get(transfer)
            stage.book.expect(
                stored is None or stored <= epoch, f"transfer {transfer} of {stored} is seen as of {epoch}"
            )
        for transfer, stored in self._stored.items():
            stage.book.expect(
                stored > epoch or transfer in rows, f"transfer {transfer} of {stored} is not there at {epoch}"
            )
        for transfer in self._refused:
            stage.book.expect(transfer not in rows, f"transfer {transfer} was refused and is stored")

    async def check(self, stage: Stage) -> None:
        grid = stage.clients[0]
        epoch = await grid.wait_closed(max(self._stored.values(), default=1))
        for client in stage.clients:
            accounts = await _rows(client, ACCOUNTS, epoch)
            rows = {entry.key[0]: tuple(entry.value) for entry in await _rows(client, TRANSFERS, epoch)}
            self._compare(stage, epoch, accounts, rows)
            stage.book.expect(sum(entry.value for entry in accounts) == self.total, "the total is wrong in the end")

    async def check_again(self, stage: Stage) -> None:
        await self.check(stage)


async def _rows(grid: Grid, name: str, epoch: int) -> list[Entry]:
    return [entry async for entry in grid.map(name).scan(as_of=epoch)]
