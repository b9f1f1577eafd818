"""``miaotui index``: documents put into an index, replaced, deleted and counted.

Owns what is printed. Knows the index by its public calls only. Invariant: results go to standard output, everything
else to standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from miaotui.cli.meaning import by_meaning, drop_deleted_vectors
from miaotui.cli.options.index import ACTIONS
from miaotui.cli.output import messages
from miaotui.cli.output.progress import ProgressBars
from miaotui.cli.output.terminal import printable
from miaotui.config import format_size
from miaotui.errors import IndexMissingError, RequestError
from miaotui.retrieval.index.encrypting import encrypt_index
from miaotui.retrieval.index.index import Index
from miaotui.retrieval.index.settings import IndexSettings, lies_here, names, place, remove_index
from miaotui.retrieval.ingest.pipeline import IngestReport, Preparation, load

_SHOWN_SKIPPED = 10


def index(parsed: argparse.Namespace) -> int:
    """Run one action on an index and return the exit status."""
    action, *words = parsed.words
    actions: dict[str, Callable[[argparse.Namespace, list[str]], None]] = {
        "create": _create,
        "add": _add,
        "update": _add,
        "delete": _delete,
        "purge": _purge,
        "encrypt": _encrypt,
        "remove": _remove,
        "stats": _stats,
        "list": _list,
    }
    if action not in actions:
        raise RequestError(f"no action {action!r}. Actions: {', '.join(ACTIONS)}")
    if not words and action != "list":
        raise RequestError(f"say which index: miaotui index {action} NAME")
    actions[action](parsed, words)
    return 0


def _create(parsed: argparse.Namespace, words: list[str]) -> None:
    Index.create(words[0], _plan(parsed)).close()
    print(place(words[0]))


def _plan(parsed: argparse.Namespace) -> IndexSettings:
    return IndexSettings(
        partitions=parsed.partitions,
        language=parsed.language,
        passage_chars=parsed.passage_chars,
        remotes=tuple(parsed.remote),
    )


def _add(parsed: argparse.Namespace, words: list[str]) -> None:
    name, *paths = words
    if not paths:
        raise RequestError("say which files or folders to add")
    preparation = Preparation(
        keep_duplicates=parsed.keep_duplicates,
        repair_spelling=parsed.repair_spelling,
        tags=tuple(parsed.tag),
        workers=parsed.workers or _workers(paths),
    )
    with _opened(name, parsed) as opened, ProgressBars() as progress:
        summary = load(opened, map(Path, paths), preparation, progress)
    _show(summary, parsed.json)
    with Index.open(name) as opened, by_meaning(opened):
        pass


def _workers(paths: list[str]) -> int:
    """Return the number of processes: all cores for much text, one for little, where starting more costs too much."""
    if any(os.path.isdir(path) or os.path.getsize(path) > 4_000_000 for path in paths if os.path.exists(path)):
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 1


def _opened(name: str, parsed: argparse.Namespace) -> Index:
    try:
        return Index.open(name)
    except IndexMissingError:
        if parsed.words[0] == "update" or lies_here(name):
            raise
        return Index.create(name, _plan(parsed))


def _show(summary: IngestReport, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(summary), ensure_ascii=False))
        return
    print(
        messages.ADDED(
            passages=f"{summary.passages:,}",
            files=f"{summary.files:,}",
            skipped=f"{summary.skipped_count:,}",
            duplicates=f"{summary.duplicates:,}",
        )
    )
    for table in summary.tables[:_SHOWN_SKIPPED]:
        told = messages.TABLE(
            name=table.name,
            sign=messages.DELIMITER[table.delimiter](),
            encoding=table.encoding,
            columns=", ".join(table.columns),
        )
        print(f"  {printable(told)}", file=sys.stderr)
    for one in summary.skipped[:_SHOWN_SKIPPED]:
        print(f"  {printable(f'{one.name}: {one.reason}')}", file=sys.stderr)
    if summary.skipped_count > _SHOWN_SKIPPED:
        print(messages.AND_MORE(count=summary.skipped_count - _SHOWN_SKIPPED), file=sys.stderr)


def _delete(parsed: argparse.Namespace, words: list[str]) -> None:
    name, *ids = words
    if not ids:
        raise RequestError("say which ids to delete")
    with Index.open(name) as opened:
        gone = opened.delete(ids)
        if gone:
            drop_deleted_vectors(opened)
    print(json.dumps({"deleted": gone}) if parsed.json else messages.DELETED(count=gone))


def _purge(_: argparse.Namespace, words: list[str]) -> None:
    with Index.open(words[0]) as opened:
        opened.purge()
        drop_deleted_vectors(opened)


def _encrypt(_: argparse.Namespace, words: list[str]) -> None:
    encrypt_index(place(words[0]))


def _remove(_: argparse.Namespace, words: list[str]) -> None:
    with Index.open(words[0]) as opened:
        folder = opened.folder
    remove_index(folder)


def _stats(parsed: argparse.Namespace, words: list[str]) -> None:
    with Index.open(words[0]) as opened:
        stats = opened.stats()
    if parsed.json:
        print(json.dumps(stats))
        return
    for name, value in stats.items():
        shown = format_size(value) if name.endswith("_bytes") else value
        print(f"{name.removesuffix('_bytes'):<12}{shown}")


def _list(parsed: argparse.Namespace, words: list[str]) -> None:
    print(json.dumps(names()) if parsed.json else "\n".join(names()))
