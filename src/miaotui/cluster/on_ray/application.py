"""Deployments of Ray Serve: one of replicas for each model, and the ingress, which is the application of `serve`.

Owns both classes and the application that binds them: `build` is what `serve deploy` imports. Knows neither HTTP nor
arithmetic. Invariants: a replica whose files have another digest than the ingress's does not start; the ingress is the
only one that clients reach; replicas read nothing but checked messages from it.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve.config import RequestRouterConfig
from starlette.middleware import Middleware

from miaotui.cluster.cluster_file import INDEXES, ClusterFile, PoolSpecification
from miaotui.cluster.idempotency import IdempotencyKeys
from miaotui.cluster.kinds import open_replica
from miaotui.cluster.messages import Message
from miaotui.cluster.on_ray.channel import MISDIRECTED, RayMembers
from miaotui.cluster.on_ray.known import NAMED
from miaotui.cluster.on_ray.scale import deployment_name, replicas_of, set_replicas
from miaotui.cluster.open_pools import OpenPools
from miaotui.cluster.pool_metrics import PoolMetrics
from miaotui.cluster.transport.direct import ReplicaServer, tls_of_ray
from miaotui.cluster.transport.served_replica import ServedReplica
from miaotui.errors import OverloadedError, RequestError

LOG = logging.getLogger("miaotui.cluster")
INGRESS = "ingress"
HEAD = "node:__internal_head__"  # a resource of the machine that clients connect to, by Ray's own name
MOST_CALLS = 4096  # at once to one replica; its own book of promises refuses long before
FIRST_REPLICA_S = 600.0  # that the first replica of a model may take to come: it may compile kernels
SCALE_S = 1.0  # between looks whether a model needs more or fewer replicas
DRAIN_LOOK_S = 0.1  # between looks whether a replica that goes has ended its answers
HEALTHY_S, UNHEALTHY_S = 2.0, 30.0  # between looks at a replica's health, and until one counts as lost


class HostedReplica:
    """A replica in an actor of Ray, which listens for the ingress itself.

    Serve starts it, watches its health and ends it. Requests and answers take a direct connection: a message through
    Ray costs a millisecond of processor time at either end.
    """

    async def _listen(self, replica: ServedReplica) -> None:
        self._name = serve.get_replica_context().replica_id.unique_id
        self._replica = replica
        self._server = ReplicaServer(replica, tls_of_ray(listens=True))
        self._place = await self._server.start(ray.util.get_node_ip_address())

    async def place(self, message: Message) -> Message:
        """Return where this replica listens, and its secret."""
        return asdict(self._place) if message.get(NAMED) == self._name else MISDIRECTED

    def check_health(self) -> None:
        """Raise where the engine has failed and is not back: Serve then starts another replica."""
        if not self._replica.healthy:
            raise OverloadedError("the engine is restarting after a fault", 1.0)

    async def __del__(self) -> None:
        """Let what runs end, which Serve does not see, and close."""
        server = getattr(self, "_server", None)
        if server is not None:
            while self._replica.in_flight:  # Serve ends the wait after `drain_timeout_s`
                await asyncio.sleep(DRAIN_LOOK_S)
            await asyncio.sleep(DRAIN_LOOK_S)  # the last pieces are on their way
            await server.close()
            self._replica.close()


class ModelReplica(HostedReplica):
    """One whole engine."""

    async def __init__(self, values: Mapping[str, Any]) -> None:  # type: ignore[misc]  # Serve awaits it
        pool = PoolSpecification(**values)
        replica = open_replica(pool.name, pool.model, {"threads": max(1, int(pool.cpus)), **pool.options})
        if pool.digest not in (None, replica.digest):
            replica.close()
            raise RequestError(
                f"the model file {pool.model} on this machine has SHA-256 {replica.digest}, and that of the cluster "
                f"has {pool.digest}: copy the right file here"
            )
        await self._listen(replica)


class IndexSearcher(HostedReplica):
    """Snapshots of indexes."""

    async def __init__(self) -> None:  # type: ignore[misc]  # Serve awaits it
        from miaotui.cluster.indexes.replica import IndexReplica  # noqa: PLC0415  (replicas of models need none of it)

        await self._listen(IndexReplica())


class Ingress:
    """The application and the server of `miaotui serve` over pools.

    It listens itself instead of behind Serve's proxy: so the bounds on connections, headers and slow clients hold here
    too, TLS is the server's own, and a request passes two processes less.
    """

    async def __init__(self, values: Mapping[str, Any], *handles: Any) -> None:  # type: ignore[misc]  # Serve awaits it
        from miaotui.serve.app import create_app  # noqa: PLC0415  (replicas need no HTTP)
        from miaotui.serve.http.listener import bind  # noqa: PLC0415  (as above)
        from miaotui.serve.http.server import DrainingServer  # noqa: PLC0415  (as above)
        from miaotui.serve.start import layers_for, open_services  # noqa: PLC0415  (as above)

        self._cluster = ClusterFile.of(values)
        settings = self._cluster.settings
        listening = bind(settings.host, settings.port)
        opened = OpenPools()
        self._pools = opened.pools
        index_replicas = None
        if self._cluster.indexes is not None:
            from miaotui.cluster.indexes.pool import IndexPool  # noqa: PLC0415  (as above)

            *handles, searchers = handles  # type: ignore[assignment]  # a list from here on
            index_replicas = await asyncio.to_thread(IndexPool, RayMembers(searchers))
            self._pools[INDEXES] = index_replicas.pool
        for specification, handle in zip(self._cluster.pools, handles, strict=True):
            await asyncio.to_thread(opened.add, specification, functools.partial(RayMembers, handle))
        ranged = [each.name for each in self._cluster.pools if each.autoscale is not None]
        self._wanted = {name: await replicas_of(name) for name in ranged}  # as an ingress before this one left them
        for specification in self._cluster.pools:
            if specification.adapters and self._wanted.get(specification.name) == 0:  # a replica says what they are
                await set_replicas(specification.name, 1)
                self._wanted[specification.name] = 1
        for name, pool in self._pools.items():
            if self._wanted.get(name) == 0:  # it sleeps: the next request starts a replica
                continue
            if not await asyncio.to_thread(pool.wait, 1, FIRST_REPLICA_S):
                raise OverloadedError(f"no replica of {name} came within {FIRST_REPLICA_S:g} s: {pool.refused}", 1.0)
        for specification in self._cluster.pools:
            for adapter, path in specification.adapters.items():
                await asyncio.to_thread(opened.decoders[specification.name].adapters.load, adapter, Path(path))
        services = open_services(opened.decoders, settings, opened.encoders, speech=opened.speech)
        self._services = replace(services, index_replicas=index_replicas)
        operations = self._services.operations
        PoolMetrics(self._pools, operations.metrics.registry)
        for entry in opened.encoders:
            await self._services.encoders.load(entry)
        layers = [*layers_for(settings, operations), Middleware(IdempotencyKeys)]
        app = create_app(self._services, layers)
        self._server = DrainingServer(app, operations, drain_timeout_s=settings.drain_timeout_s, tls=settings.tls)
        self._tasks = [
            asyncio.create_task(operations.look_after()),
            asyncio.create_task(self._server.serve([listening])),
            asyncio.create_task(self._keep_scaled()),
        ]
        while not self._server.started:
            if self._tasks[1].done():
                raise OverloadedError("the server did not start", 1.0)
            await asyncio.sleep(0.01)

    async def state(self) -> Message:
        """Return the cluster's file, and what each pool knows of its replicas."""
        pools = {
            name: {
                "replicas": pool.replicas,
                "refused": pool.refused,
                "resumed": pool.resumed,
                "autoscale": pool.has_range,
            }
            for name, pool in self._pools.items()
        }
        operations = self._services.operations
        return {
            "cluster": self._cluster.plain(),
            "pools": pools,
            "draining": operations.is_draining,
            "running": len(operations.running),
            "process": os.getpid(),
        }

    async def _keep_scaled(self) -> None:
        """Give each pool with a range as many replicas as it wants."""
        while self._wanted:
            await asyncio.sleep(SCALE_S)
            for name, count in self._wanted.items():
                wanted = self._pools[name].wanted(count)
                if wanted == count:
                    continue
                try:
                    await set_replicas(name, wanted)
                except Exception:  # Serve's controller may be away for a moment
                    LOG.exception("the replicas of %s could not be changed to %d", name, wanted)
                else:
                    LOG.info("%s: %d replicas instead of %d", name, wanted, count)
                    self._wanted[name] = wanted

    async def drain(self, draining: bool) -> int:
        """Say to load balancers that no new requests are welcome; return how many still run."""
        operations = self._services.operations
        operations.is_draining = draining
        return len(operations.running)

    def check_health(self) -> None:
        """Raise where the server has ended: Serve then starts another one."""
        if self._tasks[1].done():
            raise OverloadedError("the server has ended", 1.0)

    async def __del__(self) -> None:
        """Let what runs finish, and close."""
        server = getattr(self, "_server", None)
        if server is not None:
            server.should_exit = True
            await asyncio.gather(self._tasks[1], return_exceptions=True)
            for task in (self._tasks[0], self._tasks[2]):
                task.cancel()
            self._services.close()


def build(values: Mapping[str, Any]) -> Any:
    """Return the application of a cluster: what ``import_path`` names in a file for `serve deploy`.

    ``values`` are those of a cluster file, or ``{"file": PATH}``. Raises `RequestError`.
    """
    file = values.get("file")
    cluster = ClusterFile.of(values) if file is None else ClusterFile.read(Path(str(file)))
    return application(cluster.located())


def application(cluster: ClusterFile) -> Any:
    """Return the bound deployments of a cluster."""
    routing = RequestRouterConfig(request_router_class="miaotui.cluster.on_ray.request_router:NamedReplicaRouter")

    def deployed(of: type, name: str, replicas: int, cpus: float) -> Any:
        return serve.deployment(
            of,
            name=deployment_name(name),
            num_replicas=replicas,
            max_ongoing_requests=MOST_CALLS,
            health_check_period_s=HEALTHY_S,
            health_check_timeout_s=UNHEALTHY_S,
            graceful_shutdown_timeout_s=cluster.settings.drain_timeout_s,
            ray_actor_options={"num_cpus": cpus},
            request_router_config=routing,
        )

    bound = []
    for pool in cluster.pools:
        values = {
            "name": pool.name,
            "model": pool.model,
            "cpus": pool.cpus,
            "digest": pool.digest,
            "options": dict(pool.options),
        }
        bound.append(deployed(ModelReplica, pool.name, pool.replicas, pool.cpus).bind(values))
    if cluster.indexes is not None:
        bound.append(deployed(IndexSearcher, INDEXES, cluster.indexes.replicas, cluster.indexes.cpus).bind())
    ingress = serve.deployment(
        Ingress,
        name=INGRESS,
        num_replicas=1,
        max_ongoing_requests=MOST_CALLS,
        graceful_shutdown_timeout_s=cluster.settings.drain_timeout_s + 5.0,
        ray_actor_options={"num_cpus": 0, "resources": {HEAD: 0.001}},
    )
    return ingress.bind(cluster.plain(), *bound)
