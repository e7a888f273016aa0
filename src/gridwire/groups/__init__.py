"""Group coordination without I/O: (state, command, now) -> (state, effects)."""
