"""A pool in the place of an engine: the loop over which a server uses a model that runs elsewhere.

Owns the order for each kind of model: its files and their digest, what belongs to its text, the pool. Invariant: the
digest of the files that are read here is what replicas must have.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from miaotui.backends.options import EncoderOptions
from miaotui.cluster.jobs.arrays import arrays_piece, read_arrays
from miaotui.cluster.jobs.pool import JobPool
from miaotui.cluster.jobs.speech import published_step_s, read_found
from miaotui.cluster.messages import VERSION, Message
from miaotui.cluster.pool import Pool
from miaotui.cluster.routing.scaling import ScaleRange
from miaotui.cluster.transport.channel import Members
from miaotui.encoders.runtime import RunningEncoder, open_remote_encoder
from miaotui.engine.remote.hearing import RemoteSpeechLoop
from miaotui.engine.remote.jobs import RemoteEncoderLoop
from miaotui.engine.remote.loop import RemoteLoop
from miaotui.hub.digest import model_digest
from miaotui.hub.resolve import resolve
from miaotui.runtime import open_remote_model, open_speech_text
from miaotui.speech.model import SpeechModel


def open_pool(
    name: str, model: str, members: Members, context: int | None = None, scale: ScaleRange | None = None
) -> tuple[Pool, RemoteLoop]:
    """Open the text of a model, and a pool of replicas of it. Raises a `MiaotuiError`.

    ``context`` is what replicas were told to hold, in tokens; None: what the model holds. ``scale`` is the range of how
    many there are; None: others decide that.
    """
    path = Path(resolve(model))
    expected = _expected(path)
    if context is not None:
        expected["context"] = context
    remote, preparation = open_remote_model(path, expected["digest"], context)
    pool = Pool(name, members, expected, scale)
    loop = RemoteLoop(remote, preparation, pool)
    pool.loop = loop
    return pool, loop


def open_encoder_pool(
    name: str, model: str, members: Members, options: Mapping[str, Any] | None = None, scale: ScaleRange | None = None
) -> tuple[JobPool, RunningEncoder]:
    """Open the text of an encoder, and a pool of replicas of it, see `open_pool`. Raises a `MiaotuiError`."""
    path = Path(resolve(model))
    expected = _expected(path)
    loaded = open_remote_encoder(path, expected["digest"], EncoderOptions(**(options or {})))
    pool = JobPool(name, members, expected, lambda piece: read_arrays(piece) if "f32" in piece else (), scale=scale)
    return pool, RunningEncoder(loaded, RemoteEncoderLoop(pool))


def open_speech_pool(
    name: str, model: str, members: Members, scale: ScaleRange | None = None
) -> tuple[JobPool, SpeechModel]:
    """Open the text of a speech model, and a pool of replicas of it, see `open_pool`. Raises a `MiaotuiError`."""
    path = Path(resolve(model))
    pool = JobPool(name, members, _expected(path), read_found, scale=scale)

    def step_s(source_rows: int, target_rows: int) -> float:
        return published_step_s(pool.published("window"), source_rows, target_rows)

    try:
        loop = RemoteSpeechLoop(open_speech_text(name, path), pool, step_s, arrays_piece)
    except BaseException:
        pool.close()
        raise
    return pool, SpeechModel(loop, owns_loop=True)


def _expected(path: Path) -> Message:
    """Return what replicas of the model at ``path`` must be."""
    return {"protocol": VERSION, "miaotui": version("miaotui"), "digest": model_digest(path)}
