"""The grid in one process: no server, the same client API, and, for tests, a clock to step.

async with tidegrid.embedded.open() as grid:                 # in memory
    await grid.create_map("prices", key=("symbol",))
    await grid.map("prices").put("ACME", {"bid": 9.5})

async with tidegrid.embedded.open("data", nodes=3, triggers=["flights.py"], tick=None) as grid:
    await grid.map("flights.raw").put(key, row)
    epoch = await grid.tick()                                # closes an epoch, which has that write
    await grid.map("flights").get(key, as_of=epoch)
"""

from __future__ import annotations

from tidegrid.embedded.grid import EmbeddedGrid, open

__all__ = ["EmbeddedGrid", "open"]
