"""The request router that Ray Serve calls for each call to a replica: it obeys the name in the message.

Owns nothing; the choice was made by `routing.router` in the pool. Ray copies this class by value, so its module holds
no state: what Serve tells it goes to `known`.
Source: Ray Serve's guide to custom request routers (docs.ray.io, "Use Custom Algorithm for Request Routing").
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from miaotui.cluster.on_ray import known


class NamedReplicaRouter(RequestRouter):  # type: ignore[misc]  # Ray has no types for it
    """Serve's router of one deployment: it sends each call to the replica that its message names."""

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Take in which replicas there are."""
        super().update_replicas(replicas)
        known.tell(str(self._deployment_id), [each.replica_id.unique_id for each in replicas])

    def on_replica_actor_died(self, replica_id: Any) -> None:
        """Leave a replica out that died."""
        super().on_replica_actor_died(replica_id)
        known.forget(str(self._deployment_id), replica_id.unique_id)

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Return the named replica; any one where it is not there any more, which will refuse."""
        if pending_request is None:
            return [candidate_replicas]
        pending_request.routing_context.should_backoff = True
        message = pending_request.args[0] if pending_request.args else None
        name = message.get(known.NAMED) if isinstance(message, Mapping) else None
        named = [each for each in candidate_replicas if each.replica_id.unique_id == name]
        return [named or candidate_replicas]
