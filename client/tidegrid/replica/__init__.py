"""Replicas: followers of maps, and the stores (sinks) that they fill."""

from tidegrid.replica.follower import Follower, Progress
from tidegrid.replica.replica import Replica
from tidegrid.replica.sink import Sink, Source
from tidegrid.replica.sqlite import SqliteSink

__all__ = ["Follower", "Progress", "Replica", "Sink", "Source", "SqliteSink"]
