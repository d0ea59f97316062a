"""Trainings that are killed repeatedly: `python -m tests.stress.soak`; `__main__.py` describes it."""
