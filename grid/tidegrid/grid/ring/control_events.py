"""What a record of the control log has changed, for those who live by it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tidegrid.grid.model.ids import Epoch, PartitionId, Position
from tidegrid.grid.model.maps import MapSpec
from tidegrid.grid.ring.declarations import Deployment
from tidegrid.grid.ring.view import ViewState


@dataclass(frozen=True, slots=True)
class GridStarted:
    grid_id: bytes
    partitions: int


@dataclass(frozen=True, slots=True)
class ViewChanged:
    before: ViewState
    view: ViewState


@dataclass(frozen=True, slots=True)
class Closed:
    """`tails` are those that the record carried: of partitions whose tail changed."""

    epoch: Epoch
    time_ms: int
    tails: Mapping[PartitionId, Position]
    reference_epoch: Epoch


@dataclass(frozen=True, slots=True)
class HorizonMoved:
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class MapAdded:
    """Also when a deployment turned a map derived, or direct again."""

    spec: MapSpec
    acts_at: Epoch


@dataclass(frozen=True, slots=True)
class Deployed:
    deployment: Deployment


@dataclass(frozen=True, slots=True)
class GenerationsChanged:
    """Some were declared, switched to, or dropped: of these maps."""

    maps: tuple[str, ...]


ControlEvent = GridStarted | ViewChanged | Closed | HorizonMoved | MapAdded | Deployed | GenerationsChanged
