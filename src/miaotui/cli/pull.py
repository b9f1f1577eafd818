"""``miaotui pull``: a named model, fetched into the cache.

Owns that terms of use are shown before anything is fetched. Knows neither sources nor digests, which belong to the hub.
"""

from __future__ import annotations

import argparse
import sys

from miaotui.cli.output.progress import ProgressBars
from miaotui.hub.resolve import companions, notice
from miaotui.hub.resolve import pull as fetch


def pull(parsed: argparse.Namespace) -> int:
    """Fetch the named model and its companions, print its path and return the exit status."""
    name = parsed.words[0]
    terms = notice(name)
    if terms:
        print(terms, file=sys.stderr)
    with ProgressBars() as progress:
        path = fetch(name, progress)
        for companion in companions(name):
            fetch(companion, progress)
    print(path)
    return 0
