"""``miaotui tenant``: add, list, set, key, revoke, remove.

Owns what is printed: keys on standard output, everything else on standard error. Knows no server; a running one reads
the file again within a second. Invariants: a key is shown once; two of these commands do not write the file at once;
a new tenant never finds data of an earlier one of its name, unless that is asked for.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from miaotui.cli.options.tenants import ACTIONS
from miaotui.cli.output import messages
from miaotui.config import Settings
from miaotui.errors import RequestError
from miaotui.hub.lock import exclusive
from miaotui.retrieval.index.settings import checked_name, names_in
from miaotui.serve.documents.index_registry import own_folder
from miaotui.serve.tenants.deletion import TenantFiles, delete_tenant_data
from miaotui.serve.tenants.tenant_file import Tenant, TenantKey, TenantLimits, new_key, read_tenants, write_tenants

FIRST_KEY = "main"
_LIMITS = {
    "rpm": "requests_per_minute",
    "tpm": "tokens_per_minute",
    "concurrent": "concurrent",
    "index_count": "indexes",
}
_LISTS = {"model": "models", "shared_index": "indexes", "graph": "graphs", "recommender": "recommenders"}
NONE = "-"  # in place of a name: the list is empty

Tenants = dict[str, Tenant]


def tenant(parsed: argparse.Namespace) -> int:
    """Do one action and return the exit status."""
    action, *words = parsed.words
    path = Path(parsed.tenants)
    if action == "list":
        _only(action, words, ())
        _list(read_tenants(path), as_json=parsed.json)
        return 0
    actions: dict[str, tuple[Callable[[argparse.Namespace, Sequence[str]], None], tuple[str, ...]]] = {
        "add": (_add, ("NAME",)),
        "set": (_set, ("NAME",)),
        "key": (_key, ("NAME", "KEY")),
        "revoke": (_revoke, ("NAME", "KEY")),
        "remove": (_remove, ("NAME",)),
    }
    if action not in actions:
        raise RequestError(f"unknown action {action!r}: expected {', '.join(ACTIONS)}")
    act, wanted = actions[action]
    _only(action, words, wanted)
    act(parsed, words)
    return 0


def _changed(parsed: argparse.Namespace, change: Callable[[Tenants], None]) -> None:
    """Read the file, change it and replace it, while no other such command does."""
    path = Path(parsed.tenants)
    with exclusive(path.with_name(f"{path.name}.lock")):
        tenants = {each.name: each for each in read_tenants(path)} if path.exists() else {}
        change(tenants)
        write_tenants(path, tenants.values())


def _add(parsed: argparse.Namespace, words: Sequence[str]) -> None:
    name = checked_name(words[0])
    made, key = new_key(FIRST_KEY, is_admin=parsed.admin)
    folder = own_folder(Settings.from_env().folder("indexes"), name)
    if names_in(folder) and not parsed.keep_data:
        raise RequestError(
            f"there are indexes of an earlier {name} in {folder}: remove that folder, choose another name, or take "
            "them over with --keep-data"
        )

    def change(tenants: Tenants) -> None:
        if name in tenants:
            raise RequestError(f"{parsed.tenants} has a tenant named {name}: choose another name")
        tenants[name] = _with_options(Tenant(name, keys=(key,)), parsed)

    _changed(parsed, change)
    _show_key(made, name, key, parsed)


def _set(parsed: argparse.Namespace, words: Sequence[str]) -> None:
    def change(tenants: Tenants) -> None:
        tenants[words[0]] = _with_options(_found(tenants, words[0], parsed), parsed)

    _changed(parsed, change)


def _key(parsed: argparse.Namespace, words: Sequence[str]) -> None:
    name = words[0]
    made, key = new_key(words[1], is_admin=parsed.admin)

    def change(tenants: Tenants) -> None:
        found = _found(tenants, name, parsed)
        tenants[name] = replace(found, keys=(*found.keys, key))

    _changed(parsed, change)
    _show_key(made, name, key, parsed)


def _revoke(parsed: argparse.Namespace, words: Sequence[str]) -> None:
    name, key = words

    def change(tenants: Tenants) -> None:
        found = _found(tenants, name, parsed)
        left = tuple(each for each in found.keys if each.name != key)
        if len(left) == len(found.keys):
            known = ", ".join(each.name for each in found.keys) or "none"
            raise RequestError(f"{name} has no key named {key!r}; its keys: {known}")
        tenants[name] = replace(found, keys=left)

    _changed(parsed, change)


def _remove(parsed: argparse.Namespace, words: Sequence[str]) -> None:
    indexes = Settings.from_env().folder("indexes")
    paths = [None if path is None else Path(path) for path in (parsed.answer_cache, parsed.support_store)]
    files = TenantFiles(indexes, *paths)
    files.check()
    gone: list[Tenant] = []

    def change(tenants: Tenants) -> None:
        gone.append(_found(tenants, words[0], parsed))
        del tenants[words[0]]

    _changed(parsed, change)
    if parsed.keep_data:
        return
    deleted = delete_tenant_data(gone[0], files)
    print(messages.TENANT_REMOVED(name=words[0], **vars(deleted)), file=sys.stderr)
    if parsed.answer_cache is None:
        print(messages.TENANT_ANSWERS_LEFT(), file=sys.stderr)


def _with_options(found: Tenant, parsed: argparse.Namespace) -> Tenant:
    """Return the tenant with the limits and lists that the command line gives."""
    limits = vars(found.limits).copy()
    for option, name in _LIMITS.items():
        value = getattr(parsed, option)
        limits[name] = limits[name] if value is None else value or None
    if parsed.index_mb is not None:
        limits["index_bytes"] = (parsed.index_mb << 20) or None
    lists: dict[str, Any] = {name: _listed(parsed, option) for option, name in _LISTS.items() if vars(parsed)[option]}
    if parsed.adapter:
        words = [word.partition("=") for word in _listed(parsed, "adapter")]
        lists["adapters"] = {own: loaded or own for own, _, loaded in words}
    return replace(found, limits=TenantLimits(**limits), **lists)


def _listed(parsed: argparse.Namespace, option: str) -> tuple[str, ...]:
    values: list[str] = getattr(parsed, option)
    if NONE in values and len(values) > 1:
        raise RequestError(f"--{option.replace('_', '-')} {NONE} stands for none: give it alone, or give names")
    return () if values == [NONE] else tuple(dict.fromkeys(values))


def _found(tenants: Tenants, name: str, parsed: argparse.Namespace) -> Tenant:
    if name not in tenants:
        known = ", ".join(tenants) or "none"
        raise RequestError(f"{parsed.tenants} has no tenant named {name!r}; tenants: {known}")
    return tenants[name]


def _only(action: str, words: Sequence[str], wanted: Sequence[str]) -> None:
    if len(words) != len(wanted):
        raise RequestError(
            f"miaotui tenant {' '.join((action, *wanted))}: {len(words)} words were given after {action}"
        )


def _show_key(made: str, name: str, key: TenantKey, parsed: argparse.Namespace) -> None:
    print(json.dumps({"tenant": name, "name": key.name, "key": made}) if parsed.json else made)
    print(messages.KEY_MADE(name=f"{name}/{key.name}", path=parsed.tenants), file=sys.stderr)


def _list(tenants: Sequence[Tenant], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({each.name: each.plain() for each in tenants}, ensure_ascii=False))
        return
    for each in tenants:
        limits = ", ".join(f"{name}={value}" for name, value in vars(each.limits).items() if value is not None)
        keys = ", ".join(f"{key.name}{' (admin)' if key.is_admin else ''}" for key in each.keys) or "-"
        print("\t".join((each.name, keys, limits or "-")))
