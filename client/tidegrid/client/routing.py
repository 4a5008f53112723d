"""Who owns what, as a node said in its answer to `Hello`: pure values, replaced as a whole when a newer view is told."""

from __future__ import annotations

from dataclasses import dataclass

from tidegrid.grid.model.ids import PartitionId
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.model.maps import KeyField, MapKind, MapSpec
from tidegrid.v1 import control_pb2, grid_pb2


@dataclass(frozen=True, slots=True)
class Routing:
    """`owners` has one member per partition, None where nobody owns it yet. Of `limits` only what concerns clients is told."""

    view: int
    members: tuple[control_pb2.Member, ...]
    owners: tuple[control_pb2.Member | None, ...]
    maps: dict[str, MapSpec]
    session_epochs: int
    limits: Limits
    ready: bool

    @property
    def whole(self) -> bool:
        return None not in self.owners

    def partitions_of(self, member: control_pb2.Member) -> list[PartitionId]:
        return [
            PartitionId(index)
            for index, owner in enumerate(self.owners)
            if owner is not None and owner.node == member.node
        ]


def routing_of(reply: grid_pb2.HelloReply) -> Routing:
    members = {member.node: member for member in reply.members}
    owners: list[control_pb2.Member | None] = [None] * reply.partitions
    for owner in reply.owners:
        if owner.partition < reply.partitions:
            owners[owner.partition] = members.get(owner.node)
    return Routing(
        view=reply.view,
        members=tuple(members.values()),
        owners=tuple(owners),
        maps={spec.name: map_of(spec) for spec in reply.maps},
        session_epochs=reply.session_epochs,
        limits=Limits(
            key_bytes_max=reply.key_bytes_max,
            value_bytes_max=reply.value_bytes_max,
            value_depth_max=reply.value_depth_max,
            batch_writes_max=reply.batch_writes_max,
            message_bytes_max=reply.message_bytes_max,
            group_writes_max=reply.group_writes_max or Limits().group_writes_max,
        ),
        ready=reply.ready,
    )


def map_of(spec: control_pb2.MapSpec) -> MapSpec:
    key = tuple(KeyField(part.name, part.type) for part in spec.key)
    return MapSpec(spec.name, MapKind(spec.kind), key, spec.affinity, spec.derived, spec.schema, spec.merged)


def spec_message(spec: MapSpec) -> control_pb2.MapSpec:
    key = [control_pb2.KeyField(name=part.name, type=part.type) for part in spec.key]
    return control_pb2.MapSpec(
        name=spec.name,
        kind=int(spec.kind),
        key=key,
        affinity=spec.affinity,
        derived=spec.derived,
        schema=spec.schema,
        merged=spec.merged,
    )
