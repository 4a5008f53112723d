"""What one simulated run is made of: all of it follows from the seed, and every fault can be switched off by name.

`FAULTS` maps a fault's name to the fields and what they are without it: that is how a failing run is made smaller.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any, Final

from tidegrid.grid.model.limits import Limits


@dataclass(frozen=True, slots=True)
class Options:
    """Times are virtual seconds, `*_rate` are per second, `*_delay` means; the rest without a unit are probabilities."""

    seed: int
    nodes: int
    partitions: int
    limit: int  # K
    session_epochs: int
    tick: float = 0.03
    seconds: float = 2.0
    # Between nodes.
    loss: float = 0.05
    double: float = 0.05
    message_delay: float = 0.003
    # Between clients and nodes, within one incarnation.
    client_loss: float = 0.05
    client_double: float = 0.05
    client_delay: float = 0.003
    # The log.
    append_delay: float = 0.006
    storage_full: float = 0.05
    log_failure: float = 0.002
    no_answer: float = 0.03  # an append is not answered; it lands, or lands later, or never
    late_append: float = 0.5  # what a dead process had handed over gets into the log
    control_delay: float = 0.004
    # Worker processes.
    isolated: float = 0.5  # deployments with triggers that run there
    worker_delay: float = 0.003  # of an order, and of its answer
    worker_loss: float = 0.02  # a batch with a row that a worker was stopped with
    # Processes.
    crash_rate: float = 0.8
    checkpoint_rate: float = 2.0
    compact_rate: float = 3.0  # of the control log, up to what all live nodes have read
    downtime: float = 0.08  # mean, seconds, also of the others
    pause_rate: float = 0.5
    pause: float = 0.15  # also of a cut between nodes
    cut_rate: float = 0.5
    move_rate: float = 1.5  # partitions given to somebody, unprepared
    suspicion_rate: float = 0.5  # members put out though they live
    heartbeat: float = 0.1
    evict_after: float = 0.6
    # History.
    history_seconds: float = 0.6
    history_bytes: int = 1 << 30
    recent_bytes: int = 4096
    # Load.
    clients: int = 4
    group_clients: int = 2
    hold_clients: int = 2
    followers: int = 3
    redrivers: int = 2
    redrive_rate: float = 30.0
    write_delay: float = 0.02
    map_rate: float = 0.7
    deploy_rate: float = 0.7
    forge_rate: float = 2.0
    audit_rate: float = 15.0
    regenerate_rate: float = 4.0  # other generations of derived maps declared, switched to or dropped

    @classmethod
    def of(cls, seed: int, **overrides: Any) -> Options:
        chance = random.Random(seed * 7919 + 13)
        nodes = chance.choice((1, 2, 3, 3, 4, 5, 7))
        made = cls(
            seed=seed,
            nodes=nodes,
            partitions=chance.choice((1, 2, 3, 4, 5, 6, 12)),
            limit=chance.choice((4, 8, 16)),
            session_epochs=chance.choice((24, 60, 4096)),
            history_seconds=chance.choice((0.0, 0.3, 0.6, 100.0)),
            recent_bytes=chance.choice((0, 1500, 6000, 1 << 20)),
            crash_rate=chance.choice((0.0, 0.8, 2.0)),
            storage_full=chance.choice((0.0, 0.05, 0.2)),
            append_delay=chance.choice((0.002, 0.006, 0.02)),
            client_delay=chance.choice((0.002, 0.01)),
            downtime=chance.choice((0.05, 0.1, 1.0)),
            pause_rate=chance.choice((0.0, 0.5, 2.0)),
            cut_rate=chance.choice((0.0, 0.5, 2.0)),
            move_rate=chance.choice((0.0, 1.5, 8.0)),
            suspicion_rate=chance.choice((0.0, 0.5, 2.0)),
            no_answer=chance.choice((0.0, 0.03, 0.15)),
            history_bytes=chance.choice((1 << 30, 1 << 30, 4000)),
            regenerate_rate=chance.choice((0.0, 4.0, 20.0)),
            isolated=chance.choice((0.0, 0.5, 1.0)),
            worker_delay=chance.choice((0.001, 0.003, 0.02)),
        )
        return replace(made, **overrides)

    def without(self, fault: str) -> Options:
        return replace(self, **FAULTS[fault])


FAULTS: Final[dict[str, dict[str, Any]]] = {
    "loss": {"loss": 0.0},
    "double": {"double": 0.0},
    "client_loss": {"client_loss": 0.0},
    "client_double": {"client_double": 0.0},
    "crash": {"crash_rate": 0.0},
    "slow_workers": {"worker_delay": 0.001},
    "pause": {"pause_rate": 0.0},
    "cut": {"cut_rate": 0.0},
    "move": {"move_rate": 0.0},
    "suspicion": {"suspicion_rate": 0.0},
    "no_answer": {"no_answer": 0.0},
    "late_append": {"late_append": 0.0},
    "isolation": {"isolated": 0.0},
    "worker_loss": {"worker_loss": 0.0},
    "storage_full": {"storage_full": 0.0},
    "log_failure": {"log_failure": 0.0},
    "checkpoint": {"checkpoint_rate": 0.0},
    "compact": {"compact_rate": 0.0},
    "map": {"map_rate": 0.0},
    "deploy": {"deploy_rate": 0.0},
    "forge": {"forge_rate": 0.0},
    "regenerations": {"regenerate_rate": 0.0},
    "groups": {"group_clients": 0},
    "holds": {"hold_clients": 0},
    "followers": {"followers": 0},
    "redrives": {"redrivers": 0},
    "history": {"history_seconds": 1e6, "history_bytes": 1 << 30},
}

LIMITS: Final = Limits(
    record_bytes_max=3000, frame_writes_max=6, batch_writes_max=8, value_bytes_max=1000, parked_max=16
)
"""Small, so that frames are split by count and by size."""
