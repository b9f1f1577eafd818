"""``miaotui models``: the models that have a name, and with ``--local`` those that other programs have stored.

Owns how they are listed. Knows neither sources nor digests, which belong to the hub.
"""

from __future__ import annotations

import argparse
import json

from miaotui.cli.output import messages
from miaotui.cli.output.tables import show_tables
from miaotui.config import format_size
from miaotui.hub.resolve import list_models

MAX_PROBLEM = 100  # characters of it in the table


def models(parsed: argparse.Namespace) -> int:
    """Print the models that have a name, or that are stored here, and return the exit status."""
    return _stored(parsed.json) if parsed.local else _named(parsed.json)


def _named(as_json: bool) -> int:
    from rich.table import Table

    found = list_models()
    if as_json:
        rows = [model._asdict() | {"path": str(model.path) if model.path else None} for model in found]
        print(json.dumps(rows, ensure_ascii=False, indent=2))
        return 0
    table = Table(box=None, pad_edge=False)
    titles = (messages.MODEL, messages.HERE, messages.SIZE, messages.LICENSE, messages.SOURCE)
    for title in titles:
        table.add_column(title(), justify="right" if title is messages.SIZE else "left")
    for model in found:
        size = "" if model.size_bytes is None else format_size(model.size_bytes)
        here = messages.YES() if model.path else ""
        table.add_row(model.name, here, size, model.licence, model.source)
    show_tables(table)
    return 0


def _stored(as_json: bool) -> int:
    from rich.table import Table

    from miaotui.cli.stored import describe
    from miaotui.hub.local.programs import stored_models
    from miaotui.kernels.platform.cpu import probe

    memory = probe().memory_bytes
    found = [describe(model, memory) for model in stored_models()]
    if as_json:
        rows = [facts._asdict() | facts.model._asdict() | {"path": str(facts.model.path)} for facts in found]
        print(json.dumps([{key: row[key] for key in row if key != "model"} for row in rows], ensure_ascii=False))
        return 0
    if not found:
        print(messages.NOTHING_STORED())
        return 0
    table = Table(box=None, pad_edge=False)
    for title in (messages.MODEL, messages.SIZE, messages.QUANTISATION, messages.RUNS_HERE):
        table.add_column(title(), justify="right" if title is messages.SIZE else "left")
    for facts in found:
        runs = messages.NO_BECAUSE(problem=facts.problem[:MAX_PROBLEM]) if facts.problem else messages.YES()
        table.add_row(facts.model.name, format_size(facts.model.size_bytes), facts.quantisation, runs)
    show_tables(table)
    return 0
