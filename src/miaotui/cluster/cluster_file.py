"""The cluster file: models, how many replicas each has, and what the ingress lets in.

Owns the names, the checks and their errors. Knows neither Ray nor any process. Invariant: a `ClusterFile` that exists
names models that are here, with options that an engine takes; a name that is not known is refused with the nearest one.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from miaotui.apps.untrusted_yaml import read_yaml
from miaotui.backends.options import EncoderOptions, EngineOptions
from miaotui.cluster.kinds import OPTIONS, check_options, kind_of
from miaotui.cluster.routing.scaling import MOST_REPLICAS, ScaleRange
from miaotui.errors import MiaotuiError, RequestError
from miaotui.hub.digest import model_digest
from miaotui.hub.resolve import resolve
from miaotui.serve.settings import ServeSettings

_OF_ENGINES = tuple(name for name in OPTIONS["decoder"] if name != "speculate")
INDEXES = "indexes"  # the name of what searches documents, among those of models
MOST_BYTES = 1 << 20  # of a cluster file
ENGINE_NAMES = tuple(dict.fromkeys(name for names in OPTIONS.values() for name in names))
INGRESS_NAMES = (
    "tls_cert",
    "tls_key",
    "drain_timeout_s",
    "api_key_file",
    "tenants",
    "audit_log",
    "audit_log_mb",
    "audit_log_files",
    "share_prefix",
    "allowed_host",
    "cors_origin",
    "deadline_s",
    "max_requests",
    "max_tokens",
    "max_body_bytes",
    "body_timeout_s",
    "ping_s",
    "console",
    "docs",
    "answer_cache",
    "answer_cache_mb",
    "answer_cache_hours",
    "insecure",
)


@dataclass(frozen=True)
class PoolSpecification:
    """One model of a cluster."""

    name: str
    model: str
    replicas: int = 1  # with `autoscale`: at the start
    cpus: float = 1.0  # that Ray reserves for each replica
    autoscale: ScaleRange | None = None  # None: ``replicas``, until `scale` changes the number
    digest: str | None = None  # SHA-256 that the model's files must have; None: what the ingress finds
    adapters: Mapping[str, str] = field(default_factory=dict)  # paths by name
    options: Mapping[str, Any] = field(default_factory=dict)  # of each engine, by `ENGINE_NAMES`


@dataclass(frozen=True)
class IndexSpecification:
    """Replicas that search the indexes of documents."""

    replicas: int = 1
    cpus: float = 1.0  # that Ray reserves for each


@dataclass(frozen=True)
class ClusterFile:
    """A cluster as its file describes it."""

    pools: tuple[PoolSpecification, ...]
    address: str | None = None  # of a running Ray; None: a new one on this machine
    host: str = "127.0.0.1"
    port: int = 8000
    ingress: Mapping[str, Any] = field(default_factory=dict)  # by `INGRESS_NAMES`
    indexes: IndexSpecification | None = None  # None: the ingress searches them

    @property
    def settings(self) -> ServeSettings:
        """Return the settings of the ingress. Raises `RequestError` for those that do not go together."""
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in self.ingress.items()}
        names = tuple(f"{pool.name}={pool.model}" for pool in self.pools)
        return ServeSettings(models=names, host=self.host, port=self.port, **values).checked()

    def plain(self) -> dict[str, Any]:
        """Return the cluster as JSON values, which `ClusterFile.of` reads."""
        pools = {pool.name: {k: v for k, v in asdict(pool).items() if k != "name"} for pool in self.pools}
        for pool in pools.values():
            pool.update(pool.pop("options"))
        return {
            "address": self.address,
            "host": self.host,
            "port": self.port,
            "ingress": dict(self.ingress),
            "models": pools,
            "indexes": None if self.indexes is None else asdict(self.indexes),
        }

    @staticmethod
    def read(path: Path) -> ClusterFile:
        """Read a cluster file. Raises `RequestError`."""
        values = read_yaml(path, MOST_BYTES)
        try:
            return ClusterFile.of(values)
        except RequestError as error:
            raise RequestError(f"{path}: {error}") from error

    @staticmethod
    def of(values: Any) -> ClusterFile:
        """Return the cluster that plain values describe. Raises `RequestError`."""
        whole = _mapping(values, "the file", ("models", "address", "host", "port", "ingress", "indexes"))
        models = _mapping(whole.get("models"), "models", None)
        if not models:
            raise RequestError("models: expected at least one, as `models: {NAME: {model: ..., replicas: 2}}`")
        ingress = _mapping(whole.get("ingress") or {}, "ingress", INGRESS_NAMES)
        address, host = whole.get("address"), whole.get("host", "127.0.0.1")
        if not isinstance(address, str | None) or not isinstance(host, str):
            raise RequestError("address and host must be texts")
        port = _count(whole.get("port", 8000), "port", 0, 65535)
        pools, indexes = tuple(_pool(*each) for each in models.items()), _indexes(whole.get("indexes"))
        found = ClusterFile(pools, address, host, port, ingress, indexes)
        try:
            found.settings  # noqa: B018  (its checks)
        except (TypeError, ValueError) as error:
            raise RequestError(f"ingress: {error}") from error
        return found

    def located(self) -> ClusterFile:
        """Return the cluster with the digest of each model. Raises `RequestError` for models that are not here."""
        return replace(self, pools=tuple(map(_located, self.pools)))


def _pool(name: Any, values: Any) -> PoolSpecification:
    if not isinstance(name, str) or not name or not name.isprintable() or "=" in name or "/" in name:
        raise RequestError(f"models: {name!r} is no name: expected printable characters without '=' and '/'")
    if name == INDEXES:
        raise RequestError(f"models: {name!r} is the name of the replicas of indexes: choose another one")
    known = [each.name for each in fields(PoolSpecification) if each.name not in ("name", "options")]
    found = _mapping(values, f"models.{name}", (*known, *ENGINE_NAMES))
    model = found.get("model")
    if not isinstance(model, str) or not model:
        raise RequestError(f"models.{name}.model: expected a catalog name, a path or a repository id, not {model!r}")
    digest = found.get("digest")
    if digest is not None and not (isinstance(digest, str) and len(digest) == 64):
        raise RequestError(f"models.{name}.digest: expected SHA-256 as 64 hex digits, not {digest!r}")
    cpus = _cpus(found.get("cpus", 1.0), f"models.{name}")
    options = {key: found[key] for key in ENGINE_NAMES if key in found}
    try:
        EngineOptions(**{key: value for key, value in options.items() if key in _OF_ENGINES})
        EncoderOptions(**{key: value for key, value in options.items() if key in OPTIONS["encoder"]})
    except (RequestError, TypeError) as error:
        raise RequestError(f"models.{name}: {error}") from error
    if not isinstance(options.get("speculate", True), bool):
        raise RequestError(f"models.{name}.speculate: expected true or false, not {options['speculate']!r}")
    scale = _range(found.get("autoscale"), f"models.{name}")
    adapters = _mapping(found.get("adapters") or {}, f"models.{name}.adapters", None)
    for adapter, path in adapters.items():
        if not isinstance(adapter, str) or not isinstance(path, str) or not path:
            raise RequestError(f"models.{name}.adapters: expected names with paths, not {adapter!r}: {path!r}")
    replicas = _count(found.get("replicas", 1), f"models.{name}.replicas", 0, MOST_REPLICAS)
    if scale is not None:
        replicas = min(max(replicas, scale.least, 1), scale.most)
    return PoolSpecification(name, model, replicas, cpus, scale, digest, adapters, options)


def _indexes(values: Any) -> IndexSpecification | None:
    if values is None:
        return None
    found = _mapping(values, "indexes", [each.name for each in fields(IndexSpecification)])
    replicas = _count(found.get("replicas", 1), "indexes.replicas", 1, MOST_REPLICAS)
    return IndexSpecification(replicas, _cpus(found.get("cpus", 1.0), "indexes"))


def _cpus(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 4096:
        raise RequestError(f"{where}.cpus: expected a number from 0 to 4096, not {value!r}")
    return float(value)


def _range(values: Any, where: str) -> ScaleRange | None:
    if values is None:
        return None
    found = _mapping(values, f"{where}.autoscale", [each.name for each in fields(ScaleRange)])
    try:
        return ScaleRange(**found)
    except RequestError as error:
        raise RequestError(f"{where}: {error}") from error


def _located(pool: PoolSpecification) -> PoolSpecification:
    try:
        path = Path(resolve(pool.model, allow_download=False))
        kind = kind_of(path)
        check_options(kind, pool.options)
        if kind != "decoder" and pool.adapters:
            raise RequestError(f"models of the kind {kind} take no `adapters`: leave them out")
        digest = model_digest(path)
    except MiaotuiError as error:
        raise RequestError(f"models.{pool.name}.model: {error}") from error
    if pool.digest not in (None, digest):
        raise RequestError(
            f"models.{pool.name}: the file {pool.model} has SHA-256 {digest}, and the cluster file says {pool.digest}: "
            "copy the right file here, or correct the digest"
        )
    return replace(pool, digest=digest)


def _mapping(values: Any, where: str, known: Collection[str] | None) -> Mapping[str, Any]:
    if not isinstance(values, Mapping):
        found = "nothing" if values is None else type(values).__name__
        raise RequestError(f"{where}: expected names with values, not {found}")
    for name in values:
        if known is not None and name not in known:
            near = difflib.get_close_matches(str(name), known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are: {', '.join(known)}"
            raise RequestError(f"{where}: unknown name {name!r}: {hint}")
    return values


def _count(value: Any, where: str, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise RequestError(f"{where}: expected a whole number from {least} to {most}, not {value!r}")
    return value
