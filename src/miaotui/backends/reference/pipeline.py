"""A model cut by layers: backends one after another, each going on from the states that the one before has made.

Owns the way of the states. Knows nothing of what the stages compute with. Invariant: together they give what one
backend with all layers gives.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from miaotui.backends.backend import (
    NO_ROW_STATES,
    Backend,
    BackendIdentity,
    BackendStats,
    Floats,
    Masks,
    NoDraftHead,
    RowStates,
    StepResult,
    TokenChoice,
    probe_chunk,
    require,
)
from miaotui.errors import EngineError
from miaotui.model.adapters.adapter import LowRankPair
from miaotui.schedule.plan import Plan
from miaotui.types import Progress


class Pipeline(NoDraftHead):
    """A `Backend` over stages in the order of their layers. Raises `EngineError` for layers that do not join."""

    is_tuning = False

    def __init__(self, stages: Sequence[Backend]) -> None:
        for before, after in itertools.pairwise(stages):
            require(before, "hidden_states")
            require(after, "state_inputs")
            if before.limits.layers.stop != after.limits.layers.start:
                raise EngineError(f"layers {before.limits.layers} and {after.limits.layers} do not join")
        self._stages, first, self._last = stages, stages[0], stages[-1]
        layers = range(first.limits.layers.start, self._last.limits.layers.stop)
        self.limits = replace(self._last.limits, layers=layers, passes=1, run_tokens=1)
        self.sampling = self._last.sampling
        able = self._last.capabilities
        self.capabilities = replace(able, draft_head=False, state_inputs=first.capabilities.state_inputs)
        parts = [stage.identity for stage in stages]
        formats = tuple(sorted({form for part in parts for form in part.formats}))
        arithmetic = " + ".join(f"{stage.identity.arithmetic} {stage.limits.layers}" for stage in stages)
        self.identity = BackendIdentity("pipeline", formats, self._last.identity.kv, arithmetic)

    def run(
        self,
        plan: Plan,
        choices: Sequence[TokenChoice | None] = (),
        masks: Masks | None = None,
        states: RowStates = NO_ROW_STATES,
    ) -> StepResult:
        """Run one pass of every stage; the last one chooses (see `Backend.run`)."""
        single, inputs, seconds = Plan(plan.chunks), states.inputs, 0.0
        found: dict[int, Floats] = {}
        for stage in self._stages[:-1]:
            end = stage.limits.layers.stop
            own = {layer for layer in states.layers if layer in stage.limits.layers}
            result = stage.run(single, states=RowStates(inputs, tuple(own | {end})))
            found |= {layer: result.states[layer] for layer in own}
            seconds, inputs = seconds + result.seconds, dict(enumerate(result.states[end]))
        own = set(states.layers) - found.keys()
        result = self._last.run(single, choices, masks, RowStates(inputs, tuple(own), states.pooling))
        return result._replace(seconds=seconds + result.seconds, states={**found, **result.states})

    def add_adapter(self, number: int, pairs: Mapping[str, LowRankPair], progress: Progress | None = None) -> None:
        """Let every stage know an adapter."""
        for stage in self._stages:
            stage.add_adapter(number, pairs, progress)

    def remove_adapter(self, number: int) -> None:
        """Let every stage forget an adapter."""
        for stage in self._stages:
            stage.remove_adapter(number)

    def read_cache(self, layer: int, pages: Sequence[int], count: int) -> NDArray[np.float16]:
        """Return a layer's keys and values, from the stage that computes it."""
        stage = next(stage for stage in self._stages if layer in stage.limits.layers)
        return stage.read_cache(layer, pages, count)

    def stats(self) -> BackendStats:
        """Return the stages' numbers together."""
        each = [stage.stats() for stage in self._stages]
        return BackendStats(
            max(one.threads for one in each),
            max(one.threads_live for one in each),
            sum(one.weight_bytes for one in each),
            sum(one.kv_token_bytes for one in each),
        )

    def probe(self) -> None:
        """Run one row of no sequence through every stage. Raises what is wrong."""
        self.run(Plan((probe_chunk(self.limits, (0,)),)))

    def halt(self) -> None:
        """Do nothing: a run is one pass."""

    def close(self) -> None:
        """Close every stage."""
        for stage in self._stages:
            stage.close()
