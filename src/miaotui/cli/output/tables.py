"""Tables and notes on stdout.

Owns the width and how rich's output reaches stdout: as plain text through `print`, so that a closed
pipe ends a command as it does everywhere else. Knows nothing of what the tables say.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType

_PIPE_WIDTH = 200  # a pipe has no edge to break lines at


def show_tables(*parts: RenderableType) -> None:
    """Print tables and texts one below the other, as wide as the terminal."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    console = Console(highlight=False, markup=False, width=width)
    with console.capture() as captured:
        console.print(*parts, sep="\n")
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))
