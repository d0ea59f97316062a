"""Fuzzing a run's files: `python -m tests.stress.fuzz`; `__main__.py` describes it."""
