"""``miaotui search``: passages of an index that fit a query.

Owns what is printed. Knows the index by its public calls only. Invariant: results go to standard output, everything
else to standard error; text of documents never steers a terminal.
"""

from __future__ import annotations

import argparse
import html
import json
import re
import sys

from miaotui.cli.meaning import by_meaning
from miaotui.cli.output import messages
from miaotui.cli.output.terminal import printable
from miaotui.retrieval.document import Results
from miaotui.retrieval.index.index import Index

_MARK = re.compile(r"</?b>")


def search(parsed: argparse.Namespace) -> int:
    """Print the passages that a query finds and return the exit status."""
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
            print(f"   {printable(html.unescape(marked), bold)}\n")
        if not results:
            print(messages.NOTHING_FOUND(), file=sys.stderr)
    return 0


def _found(opened: Index, query: str, parsed: argparse.Namespace) -> Results:
    if parsed.words_only:
        return opened.search(query, parsed.limit, plain=parsed.plain)
    with by_meaning(opened) as searched:
        return searched.index.search(query, parsed.limit, plain=parsed.plain)
