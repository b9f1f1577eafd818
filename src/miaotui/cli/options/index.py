"""The options of ``miaotui index`` and ``miaotui search``.

Owns their names, meanings and forms. Knows no index.
"""

from __future__ import annotations

import argparse

from miaotui.cli.options.serve import whole

ACTIONS = ("create", "add", "delete", "update", "purge", "encrypt", "remove", "stats", "list")


def index_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``miaotui index``."""
    parser.epilog = (
        f"ACTION is one of {', '.join(ACTIONS)}. NAME names an index in miaotui's folder; with a "
        "slash in it, it is a folder. After NAME, add and update take files and folders (.txt .md "
        ".html .jsonl .csv .tsv .pdf), delete takes ids. add makes the index if there is none. "
        "purge clears files of what was replaced; remove deletes the index; encrypt needs a master key, see "
        "docs/tenants.md."
    )
    make = parser.add_argument_group("a new index")
    make.add_argument("--partitions", type=whole(1, 64), metavar="N", default=1, help="default: 1")
    make.add_argument(
        "--language",
        metavar="NAME",
        default="english",
        help="of words in alphabetic scripts (default: english); Chinese is always read",
    )
    make.add_argument(
        "--passage-chars",
        type=whole(0, 100_000),
        metavar="N",
        default=1_600,
        help="split longer texts; 0: never (default: 1600)",
    )
    make.add_argument(
        "--remote",
        metavar="URL",
        action="append",
        default=[],
        help="an index on another server to search along, http://HOST/v1/indexes/NAME; may be repeated",
    )
    add = parser.add_argument_group("adding")
    add.add_argument("--tag", metavar="WORD", action="append", default=[], help="for every document")
    add.add_argument("--keep-duplicates", action="store_true", help="keep texts that repeat others")
    add.add_argument("--repair-spelling", action="store_true", help="put English misspellings right")
    add.add_argument("--workers", type=whole(1, 256), metavar="N", help="processes that prepare (default: cores)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def search_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``miaotui search``."""
    parser.epilog = (
        'QUERY: cats dogs, +must -not, "a phrase"~2, (a OR b) AND c, word~1, pre*, title:word, '
        "tag:word, lang:zh, source:docs/*, time:[2024-01-01 TO 2024-12-31], word^2."
    )
    parser.add_argument("--limit", type=whole(1, 1000), metavar="N", default=10, help="passages (default: 10)")
    parser.add_argument("--words-only", action="store_true", help="do not search by meaning")
    parser.add_argument("--plain", action="store_true", help="the query is text without syntax")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
