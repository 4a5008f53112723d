"""When something happened: the stamp shared by all versions of one frame.

A plain tuple, made once per frame and shared by its versions, because a million of them live in memory: the
collector soon stops tracking tuples of ints, and a reference costs eight bytes.
"""

from __future__ import annotations

from tidegrid.grid.model.ids import Epoch, Position

Stamp = tuple[Epoch, Position, int]
"""(effective epoch, position in the partition's log, wall time in ms)"""
