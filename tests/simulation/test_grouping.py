"""What the simulated group clients may believe: no more than the real client, which has one call at a time."""

from __future__ import annotations

from tidegrid.grid.engine.group import GroupRequest
from tidegrid.grid.model.errors import ConflictError

from tests.simulation.grouping import Group, GroupClient
from tests.simulation.options import Options
from tests.simulation.world import World


def refuse(client: GroupClient, group: Group, sent: int) -> None:
    """The node that was asked the `sent`-th time says that the first write conflicts."""
    process = client.world.processes[0]
    request = GroupRequest(group.id, group.writes, lambda request: None)
    request.errors = {(0, 0): ConflictError.of(1, 0)}
    client._group_answered(group, sent, process, process.life, request)


def test_who_asks_another_node_no_longer_listens_to_the_first() -> None:
    """Seed 4206: the refusal came when another node had been asked, whose owners knew nothing of it, and stored it."""
    world = World(Options.of(4206, client_loss=0.0))
    client = next(client for client in world.clients if isinstance(client, GroupClient))
    client._commit()
    (group,) = client.outstanding.values()
    assert isinstance(group, Group)
    client._try(group)
    world.processes[0].start()  # whatever was sent before does not reach this life
    refuse(client, group, sent=1)
    world.run(0.1)
    assert group.sent == 2 and group.open_rows and not world.judge.refused
    refuse(client, group, sent=2)
    world.run(0.1)
    assert not group.open_rows and set(world.judge.refused) == set(group.ids())
