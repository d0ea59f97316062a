"""One thread a process: the tests share the cores among workers, and threads that wait for each other spin.

What is about threads asks for them itself.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is loaded, and for the processes that tests start
