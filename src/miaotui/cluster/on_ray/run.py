"""A cluster on Ray from outside: up, its state, scale, drain, down.

Owns the connection to Ray and the calls of Serve. Invariants: a Ray that is started here opens neither dashboard nor
client port, and asks every process of it for a token; scaling starts and ends replicas and touches no other.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping
from typing import Any

from miaotui.cluster.cluster_file import ClusterFile
from miaotui.errors import RequestError
from miaotui.libraries import missing
from miaotui.serve.http.listener import bind

LOOK_S = 0.2
HEAD_S = 2.0  # that Ray's head gets to accept a connection
NAMESPACE = "miaotui"


def _libraries() -> tuple[Any, Any]:
    """Return Ray and Ray Serve. Raises `MissingLibraryError`."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray's own ports listen on all addresses
    try:
        import ray  # noqa: PLC0415  (an extra)
        from ray import serve  # noqa: PLC0415  (an extra)
    except ModuleNotFoundError as error:
        raise missing(error.name or "ray") from error
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    return ray, serve


def connect(address: str | None) -> None:
    """Connect to a running Ray, the one on this machine for None. Raises `RequestError` where there is none."""
    ray, _ = _libraries()
    if ray.is_initialized():
        return
    from ray._private import services  # noqa: PLC0415  (an extra)

    try:
        found = services.canonicalize_bootstrap_address_or_die(address or "auto")
        if not head_answers(found):  # `ray.init` would look for it for minutes
            raise ConnectionError(f"{found} accepts no connection")
        ray.init(address=found, namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise RequestError(
            f"no Ray answers at {address or 'this machine'} ({error}): start one with `miaotui cluster up`, or name "
            "its address"
        ) from error


def head_address() -> str:
    """Return the address of the head of the Ray that this process is connected to."""
    ray, _ = _libraries()
    return str(ray.get_runtime_context().gcs_address)


def head_answers(address: str) -> bool:
    """Return whether Ray's head accepts a connection at ``address``."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), HEAD_S).close()
    except OSError:
        return False
    return True


def start_here(cpus: float) -> None:
    """Start a Ray with room for so many processors, in this process's children; it ends with this process."""
    ray, _ = _libraries()
    if not ray.is_initialized():
        ray.init(
            num_cpus=max(int(cpus + 0.999), os.cpu_count() or 1),
            include_dashboard=False,
            namespace=NAMESPACE,
            log_to_driver=False,
            logging_level="ERROR",
        )


def up(cluster: ClusterFile) -> Any:
    """Start or update a cluster; returns the handle of its ingress once it answers.

    Without an address, Ray starts in this process's children and ends with it. Raises `RequestError`.
    """
    located = cluster.located()
    ray, serve = _libraries()
    if cluster.address is not None:
        connect(cluster.address)
    elif not ray.is_initialized():
        bind(cluster.host, cluster.port).close()  # a port that is taken is named before anything starts
        searching = cluster.indexes
        extra = 0.0 if searching is None else searching.replicas * searching.cpus
        start_here(extra + sum(pool.replicas * pool.cpus for pool in cluster.pools))
    from miaotui.cluster.on_ray.application import application  # noqa: PLC0415  (imports Ray)
    from miaotui.cluster.on_ray.scale import APPLICATION  # noqa: PLC0415  (imports Ray)

    serve.start(proxy_location="Disabled")
    bound = application(located)
    try:
        return serve.run(bound, name=APPLICATION, route_prefix=None, external_scaler_enabled=True)
    except RuntimeError as error:
        raise RequestError(f"the cluster did not start: {error}") from error


def state(address: str | None) -> dict[str, Any]:
    """Return the state of a running cluster: Serve's and its ingress's. Raises `RequestError`."""
    connect(address)
    _, serve = _libraries()
    from miaotui.cluster.on_ray.scale import APPLICATION, deployment_name  # noqa: PLC0415  (imports Ray)

    found = serve.status().applications.get(APPLICATION)
    if found is None:
        raise RequestError("no cluster runs there: start one with `miaotui cluster up FILE`")
    deployments = {name: str(each.status.value) for name, each in found.deployments.items()}
    told = _ingress().state.remote().result(timeout_s=30)
    for model, pool in told["pools"].items():
        deployment = found.deployments.get(deployment_name(model))
        pool["deployed"] = 0 if deployment is None else sum(deployment.replica_states.values())
    return {"status": str(found.status.value), "message": found.message, "deployments": deployments, **told}


def scale(address: str | None, counts: Mapping[str, int]) -> None:
    """Change how many replicas models have; those that go finish what they have. Raises `RequestError`."""
    known = state(address)["pools"]
    for name in counts:
        if name not in known:
            raise RequestError(f"the cluster has no model {name!r}: it has {', '.join(sorted(known))}")
        if known[name]["autoscale"]:
            raise RequestError(
                f"{name} has `autoscale` in the cluster file: change its range there, and run `up` again"
            )
    ray, _ = _libraries()
    from miaotui.cluster.on_ray.scale import set_replicas  # noqa: PLC0415  (imports Ray)

    for name, count in counts.items():
        ray.get(set_replicas(name, count))


def drain(address: str | None, timeout_s: float = 30.0) -> int:
    """Let no new requests be welcome, and wait until none runs; return how many still run after ``timeout_s``."""
    connect(address)
    end_s = time.monotonic() + timeout_s
    while True:
        running = int(_ingress().drain.remote(True).result(timeout_s=30))
        if not running or time.monotonic() > end_s:
            return running
        time.sleep(LOOK_S)


def down(address: str | None, timeout_s: float = 30.0) -> int:
    """Drain a cluster and end it; Ray itself goes on. Returns how many requests were cut off.

    One that another process has ended meanwhile is no error.
    """
    ray, serve = _libraries()
    try:
        left = drain(address, timeout_s)
    except ray.exceptions.RayActorError:  # Serve's controller went with it
        return 0
    from miaotui.cluster.on_ray.scale import APPLICATION  # noqa: PLC0415  (imports Ray)

    serve.delete(APPLICATION)
    serve.shutdown()
    return left


def _ingress() -> Any:
    _, serve = _libraries()
    from miaotui.cluster.on_ray.scale import APPLICATION  # noqa: PLC0415  (imports Ray)

    return serve.get_app_handle(APPLICATION)
