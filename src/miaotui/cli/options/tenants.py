"""The options of ``miaotui tenant`` and ``miaotui encryption``.

Owns their names, meanings and forms. Knows no server.
"""

from __future__ import annotations

import argparse

from miaotui.cli.options.serve import whole

ACTIONS = ("add", "list", "set", "key", "revoke", "remove")


def tenant_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``miaotui tenant``."""
    parser.epilog = (
        "ACTION is add NAME, list, set NAME (limits and lists that are given), key NAME KEY, revoke NAME KEY, or "
        "remove NAME with all its data. A key is printed once; the file keeps its hash. See docs/tenants.md."
    )
    add = parser.add_argument
    add("--tenants", metavar="FILE", default="tenants.yaml", help="default: tenants.yaml")
    add("--admin", action="store_true", help="the key may change how the server runs, and read its metrics")
    add("--json", action="store_true", help="print JSON instead of text")
    _limits(parser.add_argument_group("limits of all keys of the tenant together; 0: none"))
    _lists(parser.add_argument_group("what it may use; repeatable, and - for none"))
    _files(parser.add_argument_group("files of a server in which removing deletes too"))


def encryption_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``miaotui encryption``."""
    parser.epilog = (
        "ACTION is key FILE, which puts a new master key before those of FILE, or rotate, which wraps the keys of all "
        "indexes, and of the files given, under the first key of the environment's file. See docs/tenants.md."
    )
    add = parser.add_argument
    add("--answer-cache", metavar="FILE", help="the cache of answers")
    add("--support-store", metavar="FILE", help="the conversations of the customer service")


def _limits(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--rpm", type=whole(0), metavar="N", help="requests per minute at most")
    add("--tpm", type=whole(0), metavar="N", help="tokens per minute at most")
    add("--concurrent", type=whole(0), metavar="N", help="requests at once at most")
    add("--index-mb", type=whole(0), metavar="N", help="of its indexes on disk at most")
    add("--index-count", type=whole(0), metavar="N", help="indexes at most")


def _lists(group: argparse._ArgumentGroup) -> None:
    def add(name: str, metavar: str, about: str) -> None:
        group.add_argument(f"--{name}", action="append", default=[], metavar=metavar, help=about)

    add("model", "NAME", "a model of the server (default: all)")
    add("adapter", "NAME[=LOADED]", "an adapter, perhaps under a name of the tenant's own (default: none)")
    add("shared-index", "NAME", "an index of the server's operator (default: none)")
    add("graph", "NAME", "a graph (default: none)")
    add("recommender", "NAME", "a recommender (default: none)")


def _files(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--answer-cache", metavar="FILE", help="the cache of answers")
    add("--support-store", metavar="FILE", help="the conversations of the customer service")
    add("--keep-data", action="store_true", help="remove: leave its indexes; add: take those of that name over")
