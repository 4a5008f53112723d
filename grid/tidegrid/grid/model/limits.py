"""Bounds on everything that comes from outside. Each says what it protects."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    key_bytes_max: int = 4096  # keys live in memory and in every index
    value_bytes_max: int = 512 * 1024  # a value fits a record with room for its outputs
    value_depth_max: int = 64  # nesting: decoders recurse
    batch_writes_max: int = 10_000  # one batch is answered as one message
    message_bytes_max: int = 4 * 1024 * 1024  # gRPC's own default
    record_bytes_max: int = 1024 * 1024 - 4096  # a record fits any log, JetStream's 1 MiB message included
    group_writes_max: int = 1_000  # of one commit group: its partitions wait while it is under way
    frame_writes_max: int = 500  # bounds the pause of the event loop (and of the token) while a frame is computed
    queue_bytes_max: int = 64 * 1024 * 1024  # accepted by a node, not yet in a frame
    unclosed_bytes_max: int = 256 * 1024 * 1024  # logged by a node above `closed`: what one epoch may weigh
    delivery_bytes_max: int = 16 * 1024 * 1024  # routed to one partition and not in its log yet; more has to come again
    chain_depth_max: int = 8  # triggers that set off triggers
    outputs_max: int = 1_000  # of one write, through its whole chain
    trigger_seconds: float = 1.0  # of one write in its triggers, unless they declare a budget: everything waits for it
    parked_max: int = 10_000  # writes whose triggers failed, per partition: somebody should look before there are more
    parked_bytes_max: int = 16 * 1024 * 1024  # of these, with key, value and message: they stay in memory
    sessions_max: int = 50_000  # request memory, per partition
    session_writes_max: int = 65_536  # unanswered writes of one session, per partition
    session_epochs: int = 1 << 15  # a session's life; a client renews at half of it
    named_sessions_max: int = 1_000  # sessions that outlive their client (`load`), per partition
    scan_rows_max: int = 10_000  # of one answer; a longer scan goes on where it ended
    answer_bytes_max: int = 3 * 1024 * 1024  # of one answer to reads; a scan goes on, a read of many keys is split
    subscriptions_max: int = 1_000  # per node
    maps_max: int = 1_000
    holds_max: int = 1_000  # on history, in the whole grid: every node keeps the list, and looks through it
    hold_seconds_max: float = 3600.0  # at one epoch: how long a client, gone or not, keeps history in memory
    hold_text_bytes_max: int = 512  # of a hold's name, and of its owner
