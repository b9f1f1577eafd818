"""The options of ``miaotui cluster`` and ``miaotui stage``.

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
