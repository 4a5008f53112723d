"""What the simulator raises when an invariant does not hold. Its text begins with the invariant's letter."""

from __future__ import annotations


class Violation(AssertionError):
    pass
