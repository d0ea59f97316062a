"""Training that is killed again and again: `python -m tests.stress.soak`; `__main__.py` describes it."""
