"""``python -m fastslow``: the same as the command ``fastslow``."""

from __future__ import annotations

import sys

from fastslow.cli import main

if __name__ == "__main__":
    sys.exit(main())
