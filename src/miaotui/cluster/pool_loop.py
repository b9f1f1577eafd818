"""A pool in the place of an engine: the loop over which `serve` and `LLM` use a model that runs elsewhere.

Owns the order: the model's files and their digest, what belongs to its text, the pool. Invariant: the digest of the
files that are read here is what replicas must have.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from miaotui.cluster.messages import VERSION, Message
from miaotui.cluster.pool import Pool
from miaotui.cluster.routing.scaling import ScaleRange
from miaotui.cluster.transport.channel import Members
from miaotui.engine.remote.loop import RemoteLoop
from miaotui.hub.digest import model_digest
from miaotui.hub.resolve import resolve
from miaotui.runtime import open_remote_model


def open_pool(
    name: str, model: str, members: Members, context: int | None = None, scale: ScaleRange | None = None
) -> tuple[Pool, RemoteLoop]:
    """Open the text of a model, and a pool of replicas of it. Raises a `MiaotuiError`.

    ``context`` is what replicas were told to hold, in tokens; None: what the model holds. ``scale`` is the range of how
    many there are; None: others decide that.
    """
    path = Path(resolve(model))
    expected: Message = {"protocol": VERSION, "miaotui": version("miaotui"), "digest": model_digest(path)}
    if context is not None:
        expected["context"] = context
    remote, preparation = open_remote_model(path, expected["digest"], context)
    pool = Pool(name, members, expected, scale)
    loop = RemoteLoop(remote, preparation, pool)
    pool.loop = loop
    return pool, loop
