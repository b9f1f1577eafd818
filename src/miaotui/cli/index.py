"""``miaotui index`` and ``miaotui search``: documents put into an index, and found again.

Owns what is printed. Knows the index by its public calls only; everything but results goes to
standard error.
"""

from __future__ import annotations

import argparse
import html
import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from miaotui.cli.options.index import ACTIONS
from miaotui.cli.output import messages
from miaotui.cli.output.progress import Progress
from miaotui.config import format_size
from miaotui.errors import IndexMissingError, RequestError
from miaotui.retrieval.document import Results
from miaotui.retrieval.index.index import Index
from miaotui.retrieval.index.settings import IndexSettings, names, place
from miaotui.retrieval.ingest.pipeline import Preparation, Summary, load

_SHOWN_SKIPPED = 10
_MARK = re.compile(r"</?b>")


def index(parsed: argparse.Namespace) -> int:
    """Run one action on an index; return the exit status."""
    action, *words = parsed.words
    actions: dict[str, Callable[[argparse.Namespace, list[str]], None]] = {
        "create": _create,
        "add": _add,
        "update": _add,
        "delete": _delete,
        "stats": _stats,
        "list": _list,
    }
    if action not in actions:
        raise RequestError(f"no action {action!r}. Actions: {', '.join(ACTIONS)}")
    if not words and action != "list":
        raise RequestError(f"say which index: miaotui index {action} NAME")
    actions[action](parsed, words)
    return 0


def search(parsed: argparse.Namespace) -> int:
    """Print the passages that a query finds; return the exit status."""
    name, query = parsed.words
    with Index.open(name) as opened:
        results = _found(opened, query, parsed)
        for warning in results.warnings:
            print(messages.WARNING(text=warning), file=sys.stderr)
        if parsed.json:
            hits = [hit.to_json() for hit in results]
            print(json.dumps({"version": results.version, "hits": hits}, ensure_ascii=False))
            return 0
        bold = ("\x1b[1m", "\x1b[0m") if sys.stdout.isatty() else ("", "")
        for place_, hit in enumerate(results, 1):
            print(f"{place_}. {hit.title or hit.id}  ({hit.id}, {hit.score:.2f})")
            marked = _MARK.sub(lambda match: bold["/" in match[0]], hit.snippet)
            print(f"   {_printable(html.unescape(marked), bold)}\n")
        if not results:
            print(messages.NOTHING_FOUND(), file=sys.stderr)
    return 0


def _found(opened: Index, query: str, parsed: argparse.Namespace) -> Results:
    if parsed.vectors is None:
        return opened.search(query, parsed.limit, plain=parsed.plain)
    from miaotui.retrieval.index.vectors import Neighbours, model2vec

    near = Neighbours(opened, model2vec(Path(parsed.vectors)))
    return near.search(query, parsed.limit, plain=parsed.plain)


def _printable(text: str, kept: tuple[str, str]) -> str:
    """``text`` without control characters other than our own marks: documents are not trusted."""
    parts = re.split("(" + "|".join(map(re.escape, filter(None, kept))) + ")", text) if kept[0] else [text]
    return "".join(p if p in kept else re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", p) for p in parts)


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
    with _opened(name, parsed) as opened, Progress() as progress:
        summary = load(opened, map(Path, paths), preparation, progress)
    _show(summary, parsed.json)


def _workers(paths: list[str]) -> int:
    """All cores for much text; starting processes for little costs more than it saves."""
    if any(os.path.isdir(path) or os.path.getsize(path) > 4_000_000 for path in paths if os.path.exists(path)):
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 1


def _opened(name: str, parsed: argparse.Namespace) -> Index:
    try:
        return Index.open(name)
    except IndexMissingError:
        if parsed.words[0] == "update":
            raise
        return Index.create(name, _plan(parsed))


def _show(summary: Summary, as_json: bool) -> None:
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
    for one in summary.skipped[:_SHOWN_SKIPPED]:
        print(f"  {_printable(f'{one.name}: {one.reason}', ('', ''))}", file=sys.stderr)
    if summary.skipped_count > _SHOWN_SKIPPED:
        print(messages.AND_MORE(count=summary.skipped_count - _SHOWN_SKIPPED), file=sys.stderr)


def _delete(parsed: argparse.Namespace, words: list[str]) -> None:
    name, *ids = words
    if not ids:
        raise RequestError("say which ids to delete")
    with Index.open(name) as opened:
        gone = opened.delete(ids)
    print(json.dumps({"deleted": gone}) if parsed.json else messages.DELETED(count=gone))


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
