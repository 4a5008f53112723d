"""Floor 1: what the bytes of a log mean: records, batches, segments, indexes, checkpoints, and the order of appends."""
