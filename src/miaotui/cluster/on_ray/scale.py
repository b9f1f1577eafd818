"""The number of a model's replicas, as Ray Serve keeps it.

Owns the names of deployments, their sizes, and the call that changes one, which Serve offers to outside scalers.
Invariant: it starts and ends replicas and touches no other; those that go finish what they have.
"""

from __future__ import annotations

import asyncio
from typing import Any

from ray import serve
from ray.serve._private.common import DeploymentID  # Serve's own way to scale from outside is its dashboard's

APPLICATION = "miaotui"
STOPPING = "STOPPING"  # Serve's word for a replica that goes


def deployment_name(model: str) -> str:
    """Return the name of a model's deployment."""
    return f"model-{model}"


def set_replicas(model: str, count: int) -> Any:
    """Ask Serve for so many replicas; the result can be awaited, or got by Ray."""
    controller = serve.context._get_global_client()._controller
    deployment = DeploymentID(name=deployment_name(model), app_name=APPLICATION)
    return controller.update_deployment_replicas.remote(deployment, count)


async def replicas_of(model: str) -> int:
    """Return how many replicas of a model Serve runs or starts now; those that go are not counted."""
    application = (await asyncio.to_thread(serve.status)).applications.get(APPLICATION)
    deployment = None if application is None else application.deployments.get(deployment_name(model))
    states = {} if deployment is None else deployment.replica_states
    return sum(count for state, count in states.items() if str(state) != STOPPING)
