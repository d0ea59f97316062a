"""Exact inference: a model in integers, which gives the same bits on every machine."""
