"""``miaotui merge-adapter``: a model with an adapter merged in, as a file of its own.

Owns the words of the command line. Knows no formats (`model.adapters`).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from miaotui.hub.resolve import resolve


def merge_adapter(parsed: argparse.Namespace) -> int:
    """Write the merged model, print its path and return the exit status."""
    from miaotui.model.adapters.merge import merge_adapter as merge

    model, adapter, out = parsed.words
    print(merge(resolve(model), Path(adapter).expanduser(), Path(out).expanduser()))
    return 0
