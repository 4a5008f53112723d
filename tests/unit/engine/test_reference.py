"""Reference copies: filled from the owners whatever becomes of the messages, and never shown half filled."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tidegrid.grid.engine import reference
from tidegrid.grid.engine.exchange import Message, ReferenceExchange
from tidegrid.grid.engine.partition import Partition
from tidegrid.grid.engine.recent import LandedFrame
from tidegrid.grid.engine.reference import ReferenceCopies, ReferenceRow
from tidegrid.grid.log.record import encode_section
from tidegrid.grid.model.ids import Epoch, Incarnation, NodeId, PartitionId, Position, Term
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.ring.control import ControlState
from tidegrid.grid.ring.ownership import PartitionState, moved_view
from tidegrid.grid.ring.view import Member, Owner, view_message
from tidegrid.v1.control_pb2 import Close, ControlRecord, GridCreated, Horizon
from tidegrid.v1.ring_pb2 import ReferenceReply, ReferenceRequest

from tests.unit.engine.stand import REFERENCE, Stand, key, pack

NODES = (NodeId(0), NodeId(1), NodeId(2))
SESSION_EPOCHS = 100  # and as long a tombstone stays


class Grid:
    """Three exchanges over one control log; partition p belongs to node p mod 3. Messages wait in `mail`."""

    def __init__(self, partitions: int = 4, recent_bytes: int = 1 << 20) -> None:
        self.records: list[ControlRecord] = []
        self.mail: list[tuple[NodeId, Position, Message]] = []  # (sender, its view then, (to, body))
        self.now = 0.0
        self.recent_bytes = recent_bytes
        self.model: dict[bytes, list[tuple[int, bytes | None]]] = {}
        self.controls = {node: ControlState() for node in NODES}
        self.partitions: dict[NodeId, dict[PartitionId, Partition]] = {node: {} for node in NODES}
        self.copies: dict[NodeId, ReferenceCopies] = {}
        self.exchanges: dict[NodeId, ReferenceExchange] = {}
        self.declare(
            ControlRecord(
                created=GridCreated(grid_id=b"g" * 16, partitions=partitions, limit=64, session_epochs=SESSION_EPOCHS)
            )
        )
        members = [Member(node, Incarnation(1)) for node in NODES]
        owners = {PartitionId(p): Owner(NODES[p % 3], Incarnation(1), Term(1)) for p in range(partitions)}
        self.declare(ControlRecord(view=view_message(members, owners)))
        for number in range(partitions):
            self.recover(PartitionId(number))
        for node in NODES:
            self.start(node)

    def recover(self, number: PartitionId) -> Partition:
        partition = Partition(number, Limits(), SESSION_EPOCHS, self.recent_bytes)
        partition.tables["r"] = partition.tables.new("r")
        partition.state = PartitionState.OPEN
        self.partitions[NODES[number % 3]][number] = partition
        return partition

    def start(self, node: NodeId, life: int = 1) -> None:
        self.copies[node] = ReferenceCopies(first_number=life << 32)
        exchange = ReferenceExchange(self.copies[node], self.controls[node], node, self.partitions[node])
        exchange.names = frozenset({"r"})
        self.exchanges[node] = exchange

    def declare(self, record: ControlRecord, *, nodes: Iterable[NodeId] = NODES) -> None:
        self.records.append(record)
        for node in nodes:
            self.learn(node)

    def learn(self, node: NodeId) -> None:
        control = self.controls[node]
        for position, record in enumerate(self.records, start=1):
            if position > control.position:
                control.apply(Position(position), record)
        if node in self.exchanges:
            self.send(node, self.exchanges[node].advance(self.now))

    def write(self, number: int, epoch: int, rows: list[tuple[str, Any]]) -> None:
        partition = self.partitions[NODES[number % 3]][PartitionId(number)]
        position = Position(partition.tail + 2)
        keys, values = [key(of) for of, _ in rows], [b"" if value is None else pack(value) for _, value in rows]
        ops = bytes(2 if value is None else 1 for _, value in rows)
        versions = []
        for of, value in zip(keys, values, strict=True):
            chain = self.model.setdefault(of, [])
            chain.append((epoch, value or None))
            versions.append(len(chain))
        section = encode_section("r", keys, values, ops, versions)
        partition.tables["r"].apply(keys, values, ops, versions, (Epoch(epoch), position, 5))
        partition.recent.add(LandedFrame(Epoch(epoch), partition.id, position, 5, ["r"], [section]))
        partition.tail, partition.references_changed = position, Epoch(epoch)

    def close(self, epoch: int, changed: int, *, nodes: Iterable[NodeId] = NODES) -> None:
        self.declare(ControlRecord(close=Close(epoch=epoch, reference_epoch=changed)), nodes=nodes)

    def send(self, sender: NodeId, messages: list[Message]) -> None:
        view = self.controls[sender].view.position
        self.mail.extend((sender, view, message) for message in messages)

    def deliver(self, at: int = 0, *, keep: bool = False) -> None:
        sender, view, (to, body) = self.mail[at] if keep else self.mail.pop(at)
        parsed = type(body).FromString(body.SerializeToString())
        self.send(to, self.exchanges[to].received(self.now, sender, view, parsed))

    def deliver_all(self) -> None:
        while self.mail:
            self.deliver()

    def check(self, node: NodeId) -> None:
        through = self.copies[node].through
        for of, chain in self.model.items():
            wanted = None
            for epoch, value in chain:
                if epoch <= through:
                    wanted = value
            assert self.copies[node].get("r", of, through) == wanted, (node, of, through)


def test_a_change_reaches_every_node_and_a_quiet_close_costs_nothing() -> None:
    grid = Grid()
    grid.write(1, 3, [("a", 1), ("b", 2)])
    grid.close(4, 3)
    assert [copies.through for copies in grid.copies.values()] == [0, 0, 0]
    grid.deliver_all()
    for node in NODES:
        assert grid.copies[node].through == 4 and grid.copies[node].deadline is None
        grid.check(node)
    grid.close(9, 3)
    assert not grid.mail and all(copies.through == 9 for copies in grid.copies.values())


def test_an_owner_that_has_not_applied_the_close_is_silent_and_asked_again() -> None:
    grid = Grid()
    grid.write(0, 3, [("a", 1)])
    grid.close(4, 3, nodes=[NODES[1]])
    grid.deliver_all()
    assert grid.copies[NODES[1]].through == 0
    grid.learn(NODES[0])
    grid.learn(NODES[2])
    grid.mail.clear()
    deadline = grid.copies[NODES[1]].deadline
    assert deadline is not None
    assert grid.exchanges[NODES[1]].advance(deadline - 0.01) == []
    grid.now = deadline
    grid.learn(NODES[1])
    grid.deliver_all()
    grid.check(NODES[1])
    assert grid.copies[NODES[1]].through == 4


@pytest.mark.parametrize("recent_bytes", [0, 1 << 20])
def test_parts_of_an_answer_are_of_one_list(monkeypatch: pytest.MonkeyPatch, recent_bytes: int) -> None:
    """Between them frames leave memory, history is let go, and keys come and go."""
    monkeypatch.setattr(reference, "_ROWS_MAX", 2)
    grid = Grid(recent_bytes=recent_bytes)
    for epoch in range(2, 8):
        grid.write(0, epoch, [("z", epoch), ("a", epoch), ("m", None if epoch % 2 else epoch)])
    grid.close(8, 7, nodes=[NODES[0], NODES[2]])
    grid.mail.clear()
    grid.close(9, 7, nodes=[NODES[1]])
    grid.learn(NODES[0]), grid.learn(NODES[2])
    parts = 0
    while grid.mail:
        grid.deliver(keep=parts % 3 == 0)
        if parts % 3 == 0:
            grid.deliver()
        owner = grid.partitions[NODES[0]][PartitionId(0)]
        owner.recent.start(Epoch(9))
        owner.tables["r"].reclaim(Epoch(5), 100)
        parts += 1
    grid.check(NODES[1])
    assert grid.copies[NODES[1]].through == 9 and parts > 9


def test_an_owner_that_lost_its_list_is_silent_to_the_middle_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "_ROWS_MAX", 1)
    grid = Grid()
    grid.write(0, 3, [("a", 1), ("b", 2), ("c", 3)])
    grid.close(4, 3)
    ((view, question),) = [
        (view, body) for sender, view, (to, body) in grid.mail if (sender, to) == (NODES[1], NODES[0])
    ]
    assert isinstance(question, ReferenceRequest)
    exchange = grid.exchanges[NODES[0]]
    (first,) = exchange.received(0.0, NODES[1], view, question)
    assert isinstance(first[1], ReferenceReply) and first[1].next == 1
    middle = ReferenceRequest(id=question.id, through=4, skip=1)
    assert len(exchange.received(0.0, NODES[1], view, middle)) == 1
    grid.start(NODES[0], life=2)
    assert grid.exchanges[NODES[0]].received(0.0, NODES[1], view, middle) == []
    newer = ReferenceRequest(id=question.id + 1, through=4)
    assert len(exchange.received(0.0, NODES[1], view, newer)) == 1
    assert exchange.received(0.0, NODES[1], view, question) == [], "an older question than the one being answered"


def test_an_owner_answers_nothing_before_all_its_partitions_are_open() -> None:
    grid = Grid()
    grid.write(3, 3, [("a", 1)])
    behind = grid.partitions[NODES[0]].pop(PartitionId(3))
    grid.close(4, 3)
    grid.deliver_all()
    assert all(grid.copies[node].through == 0 for node in NODES)
    grid.partitions[NODES[0]][PartitionId(3)] = behind
    grid.now += 1
    grid.send(NODES[0], grid.exchanges[NODES[0]].opened(grid.now))
    grid.learn(NODES[1]), grid.learn(NODES[2])
    grid.deliver_all()
    for node in NODES:
        grid.check(node)
        assert grid.copies[node].through == 4


def test_an_owner_answers_only_out_of_the_view_in_which_it_is_asked() -> None:
    """Out of two views a partition that has moved would be there twice, or not at all: here not at all."""
    grid = Grid()
    grid.write(3, 3, [("a", 1)])
    grid.close(4, 3)
    asked = [item for item in grid.mail if item[0] == NODES[1]]
    moved = moved_view(grid.controls[NODES[0]], {PartitionId(3): NODES[2]})
    grid.declare(ControlRecord(view=moved), nodes=[NODES[0], NODES[2]])
    partition = grid.partitions[NODES[0]].pop(PartitionId(3))
    grid.partitions[NODES[2]][PartitionId(3)] = partition
    grid.mail = asked
    grid.deliver_all()
    assert grid.copies[NODES[1]].through == 0, "the two owners are ahead of who asks"
    grid.learn(NODES[1])
    grid.copies[NODES[1]].restart()
    grid.now += 1
    grid.learn(NODES[1])
    asked = [item for item in grid.mail if item[0] == NODES[1]]
    assert asked and all(view == grid.controls[NODES[0]].view.position for _, view, _ in asked)
    grid.mail = [(sender, Position(view - 1), message) for sender, view, message in asked]
    grid.deliver_all()
    assert grid.copies[NODES[1]].through == 0, "one that is behind is not answered either"
    grid.mail = asked
    grid.deliver_all()
    assert grid.copies[NODES[1]].through == 4
    grid.check(NODES[1])


def test_a_question_as_of_before_the_horizon_is_dropped_on_both_sides() -> None:
    grid = Grid()
    grid.write(0, 3, [("a", 1)])
    grid.close(4, 3)
    grid.write(0, 6, [("a", 2)])
    grid.close(7, 6)
    questions = [body for _, _, (_, body) in grid.mail]
    assert {question.through for question in questions} == {4}
    grid.declare(ControlRecord(horizon=Horizon(epoch=6)), nodes=[NODES[0]])
    grid.partitions[NODES[0]][PartitionId(0)].tables["r"].reclaim(Epoch(6), 100)
    grid.partitions[NODES[0]][PartitionId(0)].recent.start(Epoch(7))
    grid.deliver_all()
    assert grid.copies[NODES[1]].through == grid.copies[NODES[2]].through == 0
    grid.learn(NODES[1]), grid.learn(NODES[2])
    grid.deliver_all()
    for node in NODES:
        grid.check(node)
        assert grid.copies[node].through == 7


def test_copies_so_old_that_deletes_may_be_forgotten_ask_for_everything() -> None:
    """Simulator, seed 3934: a tombstone had left its owner before copies of before it asked what had changed."""
    grid = Grid(recent_bytes=0)
    grid.write(0, 3, [("a", 1), ("b", 2)])
    grid.close(4, 3)
    grid.deliver_all()
    grid.write(0, 6, [("a", None)])
    grid.write(0, 150, [("c", 3)])
    grid.close(151, 150)
    grid.declare(ControlRecord(horizon=Horizon(epoch=120)), nodes=[NODES[0]])
    owner = grid.partitions[NODES[0]][PartitionId(0)]
    owner.tables["r"].reclaim(Epoch(120), 100)
    owner.recent.start(Epoch(151))
    assert not owner.tables["r"].chain(key("a"))
    assert {body.after for sender, _, (_, body) in grid.mail if sender != NODES[0]} == {4}
    grid.deliver_all()
    assert grid.copies[NODES[1]].through == grid.copies[NODES[2]].through == 4, "the owner cannot tell any more"
    grid.learn(NODES[1]), grid.learn(NODES[2])
    assert {body.after for sender, _, (_, body) in grid.mail if sender != NODES[0]} == {0}
    assert grid.copies[NODES[1]].get("r", key("a"), Epoch(4)) == pack(1), "until all has come, look-ups go on"
    grid.deliver_all()
    for node in NODES:
        assert grid.copies[node].through == 151
        grid.check(node)


def test_a_new_view_begins_anew() -> None:
    copies = ReferenceCopies()
    (fetch,) = copies.advance(0.0, Epoch(5), Epoch(3), [NodeId(1)])
    copies.restart()
    assert copies.deadline is None
    row = ReferenceRow("r", PartitionId(0), key("a"), pack(1), 1, (Epoch(3), Position(1), 0))
    assert copies.received(0.0, NodeId(1), fetch.number, 0, [row], True) is None and copies.through == 0
    (again,) = copies.advance(0.0, Epoch(6), Epoch(3), [NodeId(1)])
    assert again.number != fetch.number and again.through == 6
    assert copies.received(0.0, NodeId(7), again.number, 0, [row], True) is None, "not asked"
    assert copies.received(0.0, NodeId(1), fetch.number, 0, [], True) is None and copies.through == 0, "asked before"
    copies.received(0.0, NodeId(1), again.number, 0, [row], True)
    assert copies.through == 6 and copies.get("r", key("a"), Epoch(6)) == pack(1)
    assert copies.get("r", key("a"), Epoch(2)) is None and copies.get("other", key("a"), Epoch(6)) is None


def test_look_ups_go_on_while_the_copies_lag_behind_the_horizon() -> None:
    copies = ReferenceCopies()
    copies.advance(0.0, Epoch(5), Epoch(3), [NodeId(1)])
    rows = [
        ReferenceRow("r", PartitionId(0), key("a"), pack(number), number, (Epoch(number), Position(number), 0))
        for number in (1, 2, 3)
    ]
    copies.received(0.0, NodeId(1), 1, 0, rows, True)
    copies.advance(0.0, Epoch(9), Epoch(8), [NodeId(1)])
    copies.reclaim(Epoch(9), 100)
    assert copies.get("r", key("a"), copies.through) == pack(3)


def test_a_large_answer_is_cut_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "_BYTES_MAX", 100)
    rows = [
        ReferenceRow("r", PartitionId(0), key(f"{number}"), bytes(60), 1, (Epoch(1), Position(1), 0))
        for number in range(3)
    ]
    assert [reference.part_of(rows, skip) for skip in range(4)] == [
        ([rows[0]], False), ([rows[1]], False), ([rows[2]], True), ([], True)
    ]  # fmt: skip


@settings(max_examples=80)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["write", "write", "close", "deliver", "lose", "double", "late", "wait", "forget"]),
            st.integers(0, 50),
        ),
        max_size=80,
    ),
    st.sampled_from([0, 400, 1 << 20]),
)
def test_whatever_becomes_of_messages_look_ups_are_right(plan: list[tuple[str, int]], recent_bytes: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "_ROWS_MAX", 2)
        grid = Grid(recent_bytes=recent_bytes)
        epoch, changed = 2, 0
        for step, number in plan:
            if step == "write":
                changed = epoch
                grid.write(number % 4, epoch, [(f"{number % 4}/{number % 3}", number), (f"{number % 4}/x", None)])
            elif step == "close":
                grid.close(epoch, changed)
                epoch += 2
            elif step == "wait":
                grid.now += 0.3
                for node in NODES:
                    grid.learn(node)
            elif step == "forget":
                grid.partitions[NODES[number % 3]][PartitionId(number % 3)].recent.start(Epoch(epoch))
            elif grid.mail:
                at = number % len(grid.mail)
                if step == "lose":
                    grid.mail.pop(at)
                else:
                    grid.deliver(at if step == "late" else 0, keep=step == "double")
            for node in NODES:
                grid.check(node)
        grid.close(epoch, changed)
        for _ in range(40):
            grid.deliver_all()
            grid.now += 0.3
            for node in NODES:
                grid.learn(node)
        for node in NODES:
            grid.check(node)
            assert grid.copies[node].through == epoch


def test_look_ups_of_triggers_hold_after_a_restart() -> None:
    source = """
from tidegrid.triggers import Put, table, trigger
table("raw", key=("k",))
table("priced", like="raw")

@trigger(on="raw", emits=("priced",))
def price(write, grid):
    yield Put("priced", write.key, grid.get("r", write.key))
"""
    stand = Stand(source=source)
    assert REFERENCE.name == "r"
    stand.put_now({"k": 5}, map_name="r")
    waiting = stand.put({"k": 0}, map_name="raw")
    stand.land_all()
    assert stand.value("k", map_name="priced") is None, "not closed yet"
    stand.close()
    stand.put_now({"k": 0}, map_name="raw")
    assert stand.value("k", map_name="priced") == 5 and not waiting.errors
    stand.restart()
    stand.put_now({"k": 0}, map_name="raw")
    assert stand.value("k", map_name="priced") == 5
