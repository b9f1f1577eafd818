"""``miaotui models``: the models that have a name, and with ``--local`` those that other programs have stored.

Owns how they are listed. Knows neither sources nor digests, which belong to the hub.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from miaotui.cli.advice.choice import ANSWER_TOKENS, PROMPT_TOKENS, Estimate, best_estimate
from miaotui.cli.advice.machine_speeds import known_speeds
from miaotui.cli.output import messages
from miaotui.cli.output.tables import show_tables
from miaotui.config import Settings, format_size
from miaotui.hub.catalog import CATALOG
from miaotui.hub.resolve import ListedModel, list_models

if TYPE_CHECKING:
    from rich.table import Table

MAX_LANGUAGES = 3  # of a model in the table
MAX_PROBLEM = 100  # characters of it in the table


def models(parsed: argparse.Namespace) -> int:
    """Print the models that have a name, or that are stored here, and return the exit status."""
    return _stored(parsed.json) if parsed.local else _named(parsed.json)


def _named(as_json: bool) -> int:
    found, answers = list_models(), _in_time()
    if as_json:
        rows = [model._asdict() | {"path": str(model.path) if model.path else None} for model in found]
        print(json.dumps([row | _more(row["name"], answers) for row in rows], ensure_ascii=False, indent=2))
        return 0
    show_tables(_table(found, answers), _note(answers))
    return 0


def _table(found: Sequence[ListedModel], answers: Mapping[str, Estimate] | None) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    titles = [messages.MODEL, messages.HERE, messages.LANGUAGES, messages.SIZE, messages.LICENSE, messages.SOURCE]
    if answers is not None:
        titles.insert(3, messages.WITHIN_A_SECOND)
    for title in titles:
        table.add_column(title(), justify="right" if title is messages.SIZE else "left")
    for model in found:
        size = "" if model.size_bytes is None else format_size(model.size_bytes)
        languages = CATALOG[model.name].languages
        shown = " ".join(languages[:MAX_LANGUAGES]) + (" …" if len(languages) > MAX_LANGUAGES else "")
        row = [model.name, messages.YES() if model.path else "", shown, size, model.licence, model.source]
        if answers is not None:
            row.insert(3, _timed(answers.get(model.name)))
        table.add_row(*row)
    return table


def _in_time() -> dict[str, Estimate] | None:
    """Return the estimate of each model that answers here; None where the machine's speeds were never measured."""
    from miaotui.kernels.platform.cpu import probe

    cpu = probe()
    speeds = known_speeds(cpu, Settings.from_env())
    if speeds is None:
        return None
    timed = ((model.name, best_estimate(model, speeds, cpu.memory_bytes)) for model in CATALOG.values())
    return {name: found for name, found in timed if found is not None}


def _timed(found: Estimate | None) -> str:
    """Return the cell of a model: its time, marked where the whole answer comes within a second."""
    if found is None:
        return ""
    text = messages.YES() if found.in_time else messages.SECONDS(seconds=f"{found.seconds:.1f}")
    return f"{text} ({found.format.value})"


def _note(answers: Mapping[str, Estimate] | None) -> str:
    if answers is None:
        return messages.MEASURE_FIRST()
    return messages.WITHIN_NOTE(prompt=PROMPT_TOKENS, tokens=ANSWER_TOKENS)


def _more(name: str, answers: Mapping[str, Estimate] | None) -> dict[str, Any]:
    found = (answers or {}).get(name)
    timed = (
        None if found is None else {"format": found.format.value, "seconds": found.seconds, "in_time": found.in_time}
    )
    return {"languages": CATALOG[name].languages, "answer": timed}


def _stored(as_json: bool) -> int:
    from rich.table import Table

    from miaotui.cli.advice.stored import describe
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
