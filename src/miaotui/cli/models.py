"""``miaotui pull`` and ``miaotui models``: models by name.

Owns how they are listed and that terms of use are shown before anything is fetched; names, sources
and digests belong to the hub.
"""

from __future__ import annotations

import argparse
import sys

from miaotui.cli.output import messages
from miaotui.cli.output.progress import Progress
from miaotui.cli.output.tables import show_tables
from miaotui.config import format_size
from miaotui.hub.resolve import list_models, notice
from miaotui.hub.resolve import pull as fetch


def pull(parsed: argparse.Namespace) -> int:
    """Fetch the named model and print where it lies; return the exit status."""
    name = parsed.words[0]
    terms = notice(name)
    if terms:
        print(terms, file=sys.stderr)
    with Progress() as progress:
        path = fetch(name, progress)
    print(path)
    return 0


def models(parsed: argparse.Namespace) -> int:
    """List the models that have a name; return the exit status."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    titles = (messages.MODEL, messages.HERE, messages.SIZE, messages.LICENSE, messages.SOURCE)
    for title in titles:
        table.add_column(title(), justify="right" if title is messages.SIZE else "left")
    for model in list_models():
        size = "" if model.size_bytes is None else format_size(model.size_bytes)
        here = messages.YES() if model.path else ""
        table.add_row(model.name, here, size, model.licence, model.source)
    show_tables(table)
    return 0
