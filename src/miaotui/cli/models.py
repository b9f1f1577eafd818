"""``miaotui models``: the models that have a name.

Owns how they are listed. Knows neither sources nor digests, which belong to the hub.
"""

from __future__ import annotations

import argparse

from miaotui.cli.output import messages
from miaotui.cli.output.tables import show_tables
from miaotui.config import format_size
from miaotui.hub.resolve import list_models


def models(parsed: argparse.Namespace) -> int:
    """Print the models that have a name and return the exit status."""
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
