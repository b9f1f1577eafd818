"""Pools of an ingress as its server takes them: decoders as loops, encoders as entries, speech models as recognisers.

Owns the choice by the kind of a model's files. Knows no HTTP and no Ray. Invariant: an encoder that was put away and is
used again gets a pool of its own anew, over the replicas that run.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from miaotui.backends.options import EncoderOptions
from miaotui.cluster.cluster_file import PoolSpecification
from miaotui.cluster.jobs.pool import JobPool
from miaotui.cluster.kinds import kind_of
from miaotui.cluster.pool import Pool
from miaotui.cluster.pool_loop import open_encoder_pool, open_pool, open_speech_pool
from miaotui.cluster.transport.channel import Members
from miaotui.encoders.runtime import RunningEncoder, describe_encoder
from miaotui.engine.model_loop import ModelLoop
from miaotui.errors import OverloadedError, RequestError
from miaotui.hub.resolve import resolve
from miaotui.serve.encoders.registry import EncoderEntry
from miaotui.speech.model import SpeechModel

JOINED_S = 60.0  # that replicas which run take to be found


class OpenPools:
    """The pools of one ingress, by the names of their models."""

    def __init__(self) -> None:
        self.pools: dict[str, Pool | JobPool] = {}
        self.decoders: dict[str, ModelLoop] = {}
        self.encoders: list[EncoderEntry] = []
        self.speech: dict[str, SpeechModel] = {}

    def add(self, specification: PoolSpecification, members: Callable[[], Members]) -> None:
        """Open the pool of one model; ``members`` makes ways to its replicas. Raises a `MiaotuiError`."""
        name, model = specification.name, specification.model
        path = Path(resolve(model))
        kind = kind_of(path)
        if kind == "encoder":
            self._add_encoder(name, path, specification, members)
        elif kind == "speech":
            self.pools[name], self.speech[name] = open_speech_pool(name, model, members(), specification.autoscale)
        else:
            context = specification.options.get("context")
            pool, loop = open_pool(name, model, members(), context, specification.autoscale)
            self.pools[name], self.decoders[name] = pool, loop

    def _add_encoder(
        self, name: str, path: Path, specification: PoolSpecification, members: Callable[[], Members]
    ) -> None:
        options = {key: value for key, value in specification.options.items() if key in ("max_tokens", "pooling")}
        found = describe_encoder(path, EncoderOptions(**options))
        if found is None:
            raise RequestError(f"{path} is no encoder any more: its files have changed")

        def pooled() -> tuple[JobPool, RunningEncoder]:
            return open_encoder_pool(name, str(path), members(), options, specification.autoscale)

        self.pools[name], running = pooled()
        first = [running]

        def opened() -> RunningEncoder:
            """Return the pool that is open already, or one that has found a replica."""
            if first:
                return first.pop()
            pool, again = pooled()
            if not pool.may_sleep and not pool.wait(1, JOINED_S):
                again.loop.close()
                raise OverloadedError(f"no replica of {name} can be reached: {pool.refused}", 1.0)
            self.pools[name] = pool
            return again

        self.encoders.append(EncoderEntry(name, found.abilities, found.max_tokens, 0, opened))
