"""Tenant file: YAML that names each tenant with its keys, limits, models and indexes.

Owns the names, the checks and their errors, and writing the file. Knows no server. Invariants: a list of tenants that
was read has no key and no name twice; a name that is not known is refused with the nearest one; the file is replaced as
a whole, so that a reader never finds half of it, and holds hashes of keys alone.
"""

from __future__ import annotations

import difflib
import os
import re
import secrets
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from miaotui.apps.untrusted_yaml import read_yaml
from miaotui.config import cache_error
from miaotui.errors import RequestError
from miaotui.libraries import need
from miaotui.retrieval.index.settings import checked_name
from miaotui.serve.middleware.keys import KEY_NAME, KEY_PREFIX, Caller, Callers, KeyLimits, hash_key
from miaotui.serve.tenants.allowance import Allowance
from miaotui.types import namespace_number

MOST_BYTES = 8 << 20
MOST_TENANTS, MOST_KEYS = 1_000, 4_096  # in one file; each request is compared with all keys
MOST_NAMES = 1_000  # in one list of a tenant
_KEY_HASH = re.compile(r"sha256-([0-9a-f]{64})")
_LIFE = re.compile(r"[0-9a-f]{16}")
_LISTS = ("models", "indexes", "graphs", "recommenders")


@dataclass(frozen=True)
class TenantKey:
    """One key of a tenant, by its hash."""

    name: str
    digest: bytes  # SHA-256, 32 bytes
    is_admin: bool = False


@dataclass(frozen=True)
class TenantLimits:
    """Limits of a tenant, over all of its keys; None: as much as there is."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent: int | None = None
    index_bytes: int | None = None  # of its own indexes, on disk
    indexes: int | None = None


@dataclass(frozen=True)
class Tenant:
    """One tenant. ``life`` tells it from earlier and later ones of its name."""

    name: str
    life: str = field(default_factory=lambda: secrets.token_hex(8))
    keys: tuple[TenantKey, ...] = ()
    limits: TenantLimits = TenantLimits()
    models: tuple[str, ...] | None = None  # None: all but adapters
    adapters: Mapping[str, str] = field(default_factory=dict)  # the server's names by the tenant's
    indexes: tuple[str, ...] = ()  # shared ones
    graphs: tuple[str, ...] = ()
    recommenders: tuple[str, ...] = ()

    def caller(self) -> Caller:
        """Return the caller that all keys stand for, without a key."""
        limits = self.limits
        allowance = Allowance(
            None if self.models is None else frozenset(self.models),
            tuple(self.adapters.items()),
            frozenset(self.indexes),
            frozenset(self.graphs),
            frozenset(self.recommenders),
            limits.index_bytes,
            limits.indexes,
            is_tenant=True,
        )
        bounds = KeyLimits(limits.requests_per_minute, limits.tokens_per_minute, limits.concurrent)
        found = Caller(self.name, 0, bounds, life=self.life, allowance=allowance)
        return replace(found, namespace=namespace_number(found.owner))

    def callers(self) -> Callers:
        """Return the caller for each key, with the digest of the key."""
        whole = self.caller()
        return [(key.digest, replace(whole, key=key.name, is_admin=key.is_admin)) for key in self.keys]

    def plain(self) -> dict[str, Any]:
        """Return the tenant as the file has it, without what is left at its default."""
        limits = {name: value for name, value in vars(self.limits).items() if value is not None}
        keys = [
            {"name": key.name, "hash": f"sha256-{key.digest.hex()}", **({"admin": True} if key.is_admin else {})}
            for key in self.keys
        ]
        found: dict[str, Any] = {"life": self.life, "keys": keys}
        found |= {"limits": limits} if limits else {}
        found |= {} if self.models is None else {"models": list(self.models)}
        found |= {"adapters": dict(self.adapters)} if self.adapters else {}
        return found | {name: list(value) for name in _LISTS[1:] if (value := getattr(self, name))}


def read_tenants(path: Path) -> list[Tenant]:
    """Read a tenant file. Raises `RequestError`, which names the file and the place in it."""
    try:
        whole = _mapping(read_yaml(path, MOST_BYTES), "the file", ("tenants",))
        values = _mapping(whole.get("tenants") or {}, "tenants", None)
        if len(values) > MOST_TENANTS:
            raise RequestError(f"tenants: at most {MOST_TENANTS:,}, not {len(values):,}")
        tenants = [_tenant(name, value) for name, value in values.items()]
        _check_distinct(tenants)
    except RequestError as error:
        text = str(error)
        raise RequestError(text if text.startswith(str(path)) else f"{path}: {text}") from error
    return tenants


def read_callers(path: Path) -> Callers:
    """Read the callers of a tenant file, one for each key. Raises `RequestError`."""
    return [caller for tenant in read_tenants(path) for caller in tenant.callers()]


def write_tenants(path: Path, tenants: Iterable[Tenant]) -> None:
    """Replace a tenant file as a whole. Raises `RequestError` where it would not be read again, and `CacheError`."""
    given = list(tenants)
    _check_distinct(given)
    values = {"tenants": {tenant.name: tenant.plain() for tenant in given}}
    text = need("yaml").safe_dump(values, sort_keys=False, allow_unicode=True)
    part = path.with_name(f"{path.name}.part")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise cache_error(error, path.parent) from error


def new_key(name: str, *, is_admin: bool = False) -> tuple[str, TenantKey]:
    """Return a key, which is shown once, and what the file keeps of it. Raises `RequestError` for a bad name."""
    made = KEY_PREFIX + secrets.token_urlsafe(32)
    return made, TenantKey(_name(name, "a key's name"), hash_key(made.encode()), is_admin)


def _tenant(name: Any, values: Any) -> Tenant:
    where = f"tenants.{name}"
    if not isinstance(name, str):
        raise RequestError(f"{where}: a name is a text: write it in quotes")
    checked_name(name)
    found = _mapping(values or {}, where, [each.name for each in fields(Tenant) if each.name != "name"])
    life = found.get("life")
    if not isinstance(life, str) or not _LIFE.fullmatch(life):
        raise RequestError(f"{where}.life: expected 16 hex digits in quotes, as `miaotui tenant add` makes them")
    keys = found.get("keys") or []
    if not isinstance(keys, list):
        raise RequestError(f"{where}.keys: expected a list of keys with name and hash")
    limits = _mapping(found.get("limits") or {}, f"{where}.limits", [each.name for each in fields(TenantLimits)])
    for limit, value in limits.items():
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 1 << 50:
            raise RequestError(f"{where}.limits.{limit}: expected a whole number above 0, not {value!r}")
    adapters = found.get("adapters") or {}
    if isinstance(adapters, list):
        adapters = {each: each for each in _names(adapters, f"{where}.adapters")}
    adapters = _mapping(adapters, f"{where}.adapters", None)
    _names([*adapters, *adapters.values()], f"{where}.adapters")
    lists = {each: _names(found.get(each) or [], f"{where}.{each}") for each in _LISTS}
    models = None if found.get("models") is None else lists["models"]
    read = tuple(_key(each, f"{where}.keys[{at}]") for at, each in enumerate(keys))
    shared = {each: lists[each] for each in _LISTS[1:]}
    return Tenant(name, life, read, TenantLimits(**limits), models, adapters, **shared)


def _key(values: Any, where: str) -> TenantKey:
    found = _mapping(values, where, ("name", "hash", "admin"))
    digest = _KEY_HASH.fullmatch(str(found.get("hash")))
    if digest is None:
        raise RequestError(f"{where}.hash: expected sha256- and 64 hex digits: `miaotui tenant key` makes a key")
    if not isinstance(found.get("admin", False), bool):
        raise RequestError(f"{where}.admin: expected true or false, not {found['admin']!r}")
    return TenantKey(_name(found.get("name"), f"{where}.name"), bytes.fromhex(digest[1]), found.get("admin", False))


def _check_distinct(tenants: Iterable[Tenant]) -> None:
    """Raise `RequestError` for a key or a life that stands twice, two keys of one name, or too many keys."""
    digests: set[bytes] = set()
    lives: set[str] = set()
    folders: dict[str, str] = {}  # names as file systems compare them that do not tell capitals apart
    for tenant in tenants:
        names = [key.name for key in tenant.keys]
        if len(set(names)) != len(names):
            raise RequestError(f"tenants.{tenant.name}.keys: two keys have the same name")
        other = folders.setdefault(tenant.name.casefold(), tenant.name)
        if other != tenant.name:
            raise RequestError(f"tenants.{tenant.name}: only capitals tell it from {other}: choose another name")
        if tenant.life in lives:
            raise RequestError(f"tenants.{tenant.name}.life: another tenant has the same: use `miaotui tenant add`")
        lives.add(tenant.life)
        for key in tenant.keys:
            if key.digest in digests:
                raise RequestError(f"tenants.{tenant.name}.keys: the key {key.name} stands there twice")
            digests.add(key.digest)
    if len(digests) > MOST_KEYS:
        raise RequestError(f"at most {MOST_KEYS:,} keys, not {len(digests):,}")


def _name(value: Any, where: str) -> str:
    if not isinstance(value, str) or not KEY_NAME.fullmatch(value):
        raise RequestError(f"{where}: expected 1 to 64 letters, digits, dots, dashes and underscores, not {value!r}")
    return value


def _names(values: Any, where: str) -> tuple[str, ...]:
    if not isinstance(values, list) or len(values) > 2 * MOST_NAMES:
        raise RequestError(f"{where}: expected a list of at most {MOST_NAMES:,} names")
    for value in values:
        if not isinstance(value, str) or not 0 < len(value) <= 256 or not value.isprintable():
            raise RequestError(f"{where}: expected names, not {value!r}")
    return tuple(values)


def _mapping(values: Any, where: str, known: Collection[str] | None) -> Mapping[str, Any]:
    if not isinstance(values, Mapping):
        raise RequestError(f"{where}: expected names with values, not {type(values).__name__}")
    for name in values:
        if known is not None and name not in known:
            near = difflib.get_close_matches(str(name), known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are: {', '.join(known)}"
            raise RequestError(f"{where}: unknown name {name!r}: {hint}")
    return values
