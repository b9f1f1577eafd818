"""The options of ``miaotui cluster``.

Owns their names, meanings and forms. Knows no Ray.
"""

from __future__ import annotations

import argparse

from miaotui.cli.options.serve import duration


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
