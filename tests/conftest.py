"""What all tests share.

One thread a process: the tests share the cores among workers, and threads that wait for each other spin; what is about
threads asks for them itself. And the same examples in every run, with no limit on the time one takes.
"""

from __future__ import annotations

import os

from hypothesis import settings

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is loaded, and for the processes that tests start

settings.register_profile("same", derandomize=True, deadline=None)
settings.load_profile("same")
