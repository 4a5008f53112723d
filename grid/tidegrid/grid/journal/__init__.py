"""Floor 4: the Log seam and its shells."""
