"""Floor 4: the asyncio shells that drive the engine: clock, log, peers, feeds, checkpoints."""
