"""Floor 0: pure values that every other floor speaks in. No I/O, no clock, no randomness, no asyncio."""
