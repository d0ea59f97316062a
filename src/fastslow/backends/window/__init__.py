"""The window engine: the loop with a hand-written backward in plain torch operations, on any device."""
