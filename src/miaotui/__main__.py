"""``python -m miaotui``: the command line, for where no script folder is on the path."""

from __future__ import annotations

import sys

from miaotui.cli import main

if __name__ == "__main__":
    sys.exit(main())
