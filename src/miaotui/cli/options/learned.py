"""The options of ``miaotui recommend`` and ``miaotui graph``.

Owns their names, meanings and forms. Knows no recommender and no graph.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

from miaotui.cli.options.serve import whole


def recommend_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``miaotui recommend``."""
    parser.epilog = (
        "fit NAME LOG, ask NAME [USER], similar NAME ITEM, add NAME LOG, refit NAME. LOG is .csv, .tsv or .jsonl with "
        "columns user and item, perhaps time (seconds) and weight. NAME with a separator in it is a path."
    )
    fitting = parser.add_argument_group("learning")
    fitting.add_argument("--texts", metavar="FILE", help="texts of items: columns item and text")
    fitting.add_argument("--model", metavar="MODEL", help="the encoder of texts (default: all-minilm-l6-v2)")
    asking = parser.add_argument_group("asking")
    asking.add_argument("--history", metavar="A,B,...", help="items instead of a user")
    asking.add_argument("--intent", metavar="TEXT", help="the wish in words, instead of a user or beside one")
    asking.add_argument("--n", type=whole(1, 1000), metavar="N", default=10, help="items at most (default: 10)")
    asking.add_argument(
        "--popularity", type=_number(-1, 1), metavar="X", default=0.0, help="-1 to 1: rarer or more popular items"
    )
    asking.add_argument("--diversity", type=_number(0, 1), metavar="X", default=0.0, help="0 to 1: items less alike")
    asking.add_argument("--rerank-with", metavar="MODEL", help="a chat model that orders the first 20 items once more")
    asking.add_argument("--seen", action="store_true", help="items of the history may come again")
    asking.add_argument("--json", action="store_true", help="print JSON")


def graph_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``miaotui graph``."""
    parser.epilog = (
        "add NAME FILE..., ask NAME QUESTION, learn NAME FILE, links NAME ENTITY RELATION, stats NAME. Triples are in "
        ".csv, .tsv, .nt or .ttl; learn reads rows of question, entity and relations with | between."
    )
    asking = parser.add_argument_group("asking")
    asking.add_argument("--hops", type=whole(1, 3), metavar="N", default=3, help="edges at most (default: 3)")
    asking.add_argument(
        "--threshold",
        type=_number(0, 1),
        metavar="P",
        default=0.1,
        help="share of the likeliest reading's probability from which another one answers (default: 0.1)",
    )
    asking.add_argument("--backward", metavar="A,B,...", help="relations that may be followed backward")
    asking.add_argument("--model", metavar="MODEL", help="the encoder of words (default: embedder, if it is here)")
    asking.add_argument("--words-from", metavar="MODEL", help="a chat model that makes a sentence of the answer")
    asking.add_argument("--n", type=whole(1, 1000), metavar="N", default=10, help="predicted links (default: 10)")
    asking.add_argument("--json", action="store_true", help="print JSON")


def _number(low: float, high: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"must be a number from {low:g} to {high:g}, not {text!r}")
        return value

    return read
