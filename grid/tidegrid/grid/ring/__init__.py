"""Floor 1: time. Token, promises, control state, ownership: state machines only."""
