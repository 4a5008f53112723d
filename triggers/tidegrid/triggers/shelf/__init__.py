"""The standard shelf: triggers that most grids need, ready-made. Call one in a trigger module, and it is declared there.

    from tidegrid.triggers import shelf, table

    table("orders.raw", key=("number:int",))
    table("orders", like="orders.raw")
    shelf.validated(on="orders.raw", emits="orders", schema={"type": "object", "required": ["amount"]})

Each is a few lines on the public API, in a file of its own: to have it slightly otherwise, copy the file into your own
module. All take `on`, `emits` and `name` (`validated:orders.raw:orders` unless given), and read nothing but the write
and its previous value, so that they mean the same whenever they run. Where `emits` is a stream, say `events=True`.

The code of the shelf is that of the Tidegrid installed on the nodes; it is not recorded with the deployment.
"""

from tidegrid.triggers.shelf.audited import audited
from tidegrid.triggers.shelf.deduplicated import deduplicated, first
from tidegrid.triggers.shelf.expiring import expired, expiring
from tidegrid.triggers.shelf.latest import latest, newest
from tidegrid.triggers.shelf.merged import merged
from tidegrid.triggers.shelf.selected import selected
from tidegrid.triggers.shelf.validated import validated

__all__ = [
    "audited",
    "deduplicated",
    "expired",
    "expiring",
    "first",
    "latest",
    "merged",
    "newest",
    "selected",
    "validated",
]
