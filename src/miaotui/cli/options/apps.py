"""The options of ``miaotui ask`` and ``miaotui support``.

Owns their names, meanings and forms. Knows no index and no model.
"""

from __future__ import annotations

import argparse

from miaotui.cli.options.serve import duration, whole
from miaotui.hub.catalog import DEFAULT_MODEL


def ask_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``miaotui ask``."""
    parser.epilog = (
        "INDEX is made by miaotui index. The question - is read from standard input. Answers that "
        "were given before are given again, as long as the index has not changed."
    )
    add = parser.add_argument
    add("--extract", action="store_true", help="cut the answer out of a passage, without a model")
    _shared(parser, "1s, or 200ms with --extract")
    add("--graph", metavar="NAME", help="ask this graph first; see miaotui graph")
    add("--no-cache", action="store_true", help="neither use nor keep answers given before")
    add("--json", action="store_true", help="print JSON instead of text")


def support_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``miaotui support``."""
    parser.epilog = "Each line of standard input is a message. Conversations are kept in miaotui's folder."
    add = parser.add_argument
    add("--faq", metavar="FILE", help="answered questions: .csv, .jsonl or .yaml")
    add("--docs", metavar="INDEX", help="documents to answer from; see miaotui index")
    add("--rules", metavar="FILE", help="YAML file of intents, slots and rules")
    add("--tracker", metavar="FILE", help="finds values of slots in every message; --dialogues makes one")
    add("--dialogues", metavar="FILE", help="labelled dialogues: learn the tracker from them and write it to --tracker")
    add("--extract", action="store_true", help="answer in the documents' words, without a model")
    add("--language", choices=("en", "zh"), metavar="en|zh", help="of the greeting (default: yours)")
    add("--store", metavar="FILE", help="where conversations are kept")
    _shared(parser, "500ms")
    add("--json", action="store_true", help="print replies as JSON lines")


def _shared(parser: argparse.ArgumentParser, deadline: str) -> None:
    add = parser.add_argument
    add("--deadline", type=duration, metavar="T", help=f"for an answer (default: {deadline})")
    add("--model", metavar="MODEL", default=DEFAULT_MODEL, help=f"default: {DEFAULT_MODEL}")
    add("--threads", type=whole(1), metavar="N", help="default: one per usable physical core")
