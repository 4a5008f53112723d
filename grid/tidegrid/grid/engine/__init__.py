"""Floor 3: the partition and node engines, `step(input) -> effects`: no asyncio, gRPC, clock, randomness or files."""
