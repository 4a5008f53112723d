"""How a local log behaves. Each field states its trade-off; `validate` runs at start."""

from __future__ import annotations

from dataclasses import dataclass

from tidegrid.grid.log.segment import SEGMENT_HEADER_BYTES
from tidegrid.grid.model.errors import ConfigurationError
from tidegrid.grid.model.limits import Limits

_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class LocalLogOptions:
    segment_bytes: int = (
        64 * 1024 * 1024
    )  # larger: fewer files and rolls; smaller: less reserved, quicker rebuilt indexes
    sync: bool = True  # False: a crash of the machine loses what was acknowledged; for tests and benches only
    batch_bytes_max: int = (
        16 * 1024 * 1024
    )  # group commit stops collecting here: bounds the wait of the first in a batch
    record_bytes_max: int = _LIMITS.record_bytes_max
    inline_sync_bytes_max: int = 32 * 1024  # a batch up to this is written on the event loop: no thread switch,
    # but nothing else runs meanwhile; 0: always in the thread
    inline_sync_seconds_max: float = 0.000_5  # and only while the disk lately synced this fast
    index_cache_bytes_max: int = 64 * 1024 * 1024  # indexes of sealed segments kept for feeds from the past
    open_segments_max: int = 32  # file descriptors kept for reading sealed segments
    checkpoint_sync_bytes: int = (
        8 * 1024 * 1024
    )  # a checkpoint is synced in slices, so that appends never wait for all of it
    compact_share: float = 0.25  # a sealed segment is compacted when it gets shorter by this share of it; less: more
    # is let go of, and more that stays is copied for it; 1: never
    compact_rest_seconds: float = 0.003  # after each millisecond of compacting; longer: less felt by others, and slower

    def validate(self) -> LocalLogOptions:
        """Returns itself. Raises ConfigurationError."""
        if self.segment_bytes < 2 * SEGMENT_HEADER_BYTES:
            raise ConfigurationError(
                f"segment_bytes is {self.segment_bytes:,}; it must be at least {2 * SEGMENT_HEADER_BYTES:,}"
            )
        for name in ("batch_bytes_max", "record_bytes_max", "open_segments_max", "checkpoint_sync_bytes"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} is {getattr(self, name)}; it must be positive")
        if not 0 < self.compact_share <= 1:
            raise ConfigurationError(f"compact_share is {self.compact_share}; it lies above 0 and is at most 1")
        if self.batch_bytes_max > 1 << 30 or self.record_bytes_max > 1 << 30 or self.segment_bytes > 1 << 40:
            raise ConfigurationError("batches and records are bounded by 1 GiB, segments by 1 TiB; choose smaller ones")
        return self
