"""The options of ``miaotui cluster``, ``miaotui batch`` and ``miaotui stage``.

Owns their names, meanings and forms. Knows no Ray.
"""

from __future__ import annotations

import argparse

from miaotui.cli.options.serve import duration, whole


def cluster_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``miaotui cluster``."""
    parser.epilog = (
        "ACTION is up FILE, check FILE, status, scale NAME=COUNT..., drain or down. FILE is YAML; see docs/cluster.md. "
        "Needs Ray: pip install 'miaotui[cluster]'."
    )
    add = parser.add_argument
    add("--address", metavar="ADDRESS", help="of a running Ray (default: the one on this machine)")
    add("--timeout", type=duration, metavar="T", default=30.0, help="that running answers get to end (default: 30s)")
    add("--json", action="store_true", help="print the state as JSON")


def batch_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``miaotui batch``."""
    parser.epilog = (
        "FILE holds a request in each line, as OpenAI's batches do: custom_id, method, url, body. MODEL is as for "
        "miaotui serve. Run it again after an interruption: answers that are there are kept. See docs/cluster.md."
    )
    add = parser.add_argument
    add("--output", metavar="FILE", help="of answers, in lines of JSON (default: beside FILE, as .answers.jsonl)")
    add(
        "--at-once", type=whole(1, 4096), metavar="N", default=32, help="lines that are answered together (default: 32)"
    )
    add("--threads", type=whole(1, 4096), metavar="N", help="that compute (default: as many as help)")
    add(
        "--cluster",
        nargs="?",
        const="here",
        metavar="ADDRESS",
        help="answer in actors of a Ray, that at ADDRESS or one that is started here; needs 'miaotui[cluster]'",
    )
    add(
        "--replicas",
        type=whole(1, 1000),
        metavar="N",
        default=2,
        help="actors with --cluster, each with the models (default: 2)",
    )
    add("--cpus", type=float, metavar="N", default=1.0, help="processors of each actor (default: 1)")


def stage_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``miaotui stage``."""
    parser.epilog = (
        "The server names this process by --stage-at HOST:PORT, and says which layers it computes. Rows and states "
        "cross the network as they are: use a network of your own, or a tunnel."
    )
    add = parser.add_argument
    add("--host", metavar="HOST", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    add("--port", type=whole(1, 65535), metavar="N", default=8100, help="default: 8100")
    add("--key-file", metavar="FILE", help="a secret of at least 16 bytes, the same at both ends")
    add("--threads", type=whole(1), metavar="N", help="default: one per usable physical core")
