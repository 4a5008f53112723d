"""Who is to own which partition: rendezvous hashing with bounded shares, a function of the members alone.

Every node computes the same, so nobody has to be asked. Each pair (partition, node) has a score; the highest scores
are taken first, and nobody takes more than an even share. When a member goes, mostly its own partitions move.
Prior art: highest random weight (Thaler and Ravishankar, 1996), consistent hashing with bounded loads (Mirrokni et al., 2016).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from hashlib import blake2b

from tidegrid.grid.model.ids import NodeId, PartitionId


@lru_cache(maxsize=16)
def assignment(partitions: int, nodes: frozenset[NodeId]) -> Mapping[PartitionId, NodeId]:
    """The owner of every partition. O(partitions * nodes), about 2 us a pair."""
    assert nodes
    share = -(-partitions // len(nodes))
    ranked = sorted(
        ((_score(number, node), PartitionId(number), node) for number in range(partitions) for node in nodes),
        reverse=True,
    )
    owners: dict[PartitionId, NodeId] = {}
    taken: Counter[NodeId] = Counter()
    for _, partition, node in ranked:
        if partition not in owners and taken[node] < share:
            owners[partition] = node
            taken[node] += 1
    return owners


def _score(partition: int, node: NodeId) -> bytes:
    return blake2b(b"%d/%d" % (partition, node), digest_size=8).digest()
