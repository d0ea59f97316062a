"""The window engine: the loop with a hand-derived backward in plain torch operations, on any device."""
