"""The number of a model's replicas, as Ray Serve keeps it.

Owns the names of deployments and the call that changes their size, which Serve offers to outside scalers. Invariant: it
starts and ends replicas and touches no other; those that go finish what they have.
"""

from __future__ import annotations

from typing import Any

from ray import serve
from ray.serve._private.common import DeploymentID  # Serve's own way to scale from outside is its dashboard's

APPLICATION = "miaotui"


def deployment_name(model: str) -> str:
    """Return the name of a model's deployment."""
    return f"model-{model}"


def set_replicas(model: str, count: int) -> Any:
    """Ask Serve for so many replicas; the result can be awaited, or got by Ray."""
    controller = serve.context._get_global_client()._controller
    deployment = DeploymentID(name=deployment_name(model), app_name=APPLICATION)
    return controller.update_deployment_replicas.remote(deployment, count)
