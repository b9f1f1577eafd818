"""A process that adds documents one commit at a time and says which are acknowledged, until killed."""

from __future__ import annotations

import sys
from pathlib import Path

from miaotui.retrieval import Document, Index


def main() -> None:
    """Add, replace and delete in the index at the first argument, from the number in the second."""
    folder, first = Path(sys.argv[1]), int(sys.argv[2])
    index = Index.open(folder)
    for number in range(first, first + 1_000):
        index.add([Document(f"n{number}", f"alpha{number} beta", f"of{number}")])
        print(f"added {number}", flush=True)
        if number % 5 == 4:
            index.delete([f"n{number - 2}"])
            print(f"deleted {number - 2}", flush=True)


if __name__ == "__main__":
    main()
