"""The client: connection, routing, maps and feeds. Imports `tidegrid.grid.model` and the generated code only."""

from tidegrid.client.bulk import Outcomes
from tidegrid.client.change import Change, FeedBatch, FeedSection
from tidegrid.client.deploy import Deployed, DeploymentEntry
from tidegrid.client.entry import Ack, Entry, Outcome
from tidegrid.client.feed import Feed
from tidegrid.client.grid import Grid, MemberStatus, connect
from tidegrid.client.groups import CommitGroup, GroupMap, GroupOutcome
from tidegrid.client.grpc_transport import TlsOptions
from tidegrid.client.history import Version
from tidegrid.client.holds import Hold
from tidegrid.client.map import Map
from tidegrid.client.parked import ParkedWrite, Redriven
from tidegrid.client.session import NamedSession
from tidegrid.client.snapshot import Snapshot, SnapshotMap
from tidegrid.client.token import Token
from tidegrid.client.transport import Transport
from tidegrid.client.why import Lineage, LineageRow, LineageStep, Regenerated, TriggerFailure, TriggerRun, Why

__all__ = [
    "Ack",
    "Change",
    "CommitGroup",
    "Deployed",
    "DeploymentEntry",
    "Entry",
    "Feed",
    "FeedBatch",
    "FeedSection",
    "Grid",
    "GroupMap",
    "GroupOutcome",
    "Hold",
    "Lineage",
    "LineageRow",
    "LineageStep",
    "Map",
    "MemberStatus",
    "NamedSession",
    "Outcome",
    "Outcomes",
    "ParkedWrite",
    "Redriven",
    "Regenerated",
    "Snapshot",
    "SnapshotMap",
    "TlsOptions",
    "Token",
    "Transport",
    "TriggerFailure",
    "TriggerRun",
    "Version",
    "Why",
    "connect",
]
