"""Floor 1: versioned tables in memory, one per partition and map. Bytes in, bytes out; nothing here waits."""
