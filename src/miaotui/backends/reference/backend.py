"""The reference backend: the oracle, row by row, over pages of keys and values.

Read this to see what a backend does; nothing here is compiled or fast. Owns the order of a pass: inputs, layers,
logits, choices. Knows nothing of requests. Invariant: every product is of one row, always of the same shape, so a
row's bits depend neither on the rows beside it nor on how a prompt is cut into chunks.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray

from miaotui.backends.backend import (
    NO_ROW_STATES,
    BackendIdentity,
    BackendLimits,
    BackendStats,
    Capabilities,
    Floats,
    Masks,
    NoDraftHead,
    Peak,
    RowStates,
    Sampling,
    StepResult,
    TokenChoice,
    probe_chunk,
    refuse_unable,
    require_room,
)
from miaotui.backends.reference import sampling
from miaotui.backends.reference.cache import KeyValueCache, PlannedRow, planned_rows
from miaotui.backends.reference.sampling import ReferenceChoice
from miaotui.errors import EngineError
from miaotui.kernels.platform.host import read_host
from miaotui.model.adapters.adapter import LowRankPair, require_per_request
from miaotui.model.formulas import visible
from miaotui.model.oracle import Oracle
from miaotui.schedule.plan import NO_ADAPTER, Chunk, Plan, RowKind
from miaotui.types import Progress

CAPABILITIES: Final = Capabilities(
    drafts=False, adapters=True, hidden_states=True, state_inputs=True, encode=True, pooling=True
)
_POOLED = {"mean": lambda x: x.mean(axis=0), "first": lambda x: x[0], "last": lambda x: x[-1]}


class ReferenceBackend(NoDraftHead):
    """A `Backend` in NumPy that computes ``limits.layers`` of a model.

    One that begins after the first layer needs a state for each row (`RowStates.inputs`); one that ends before the
    last gives states and no logits.
    """

    capabilities = CAPABILITIES
    sampling: Sampling = sampling
    is_tuning = False

    def __init__(self, oracle: Oracle, limits: BackendLimits) -> None:
        self.limits, self._oracle = limits, oracle
        self._adapted: dict[int, Oracle] = {NO_ADAPTER: oracle}
        self._cache = KeyValueCache(oracle.config, limits.layers, limits.spare_pages.stop)
        self.identity = BackendIdentity("reference", ("f32",), "f16", "float32 in NumPy, 1")
        self._is_halted = False

    def run(
        self,
        plan: Plan,
        choices: Sequence[TokenChoice | None] = (),
        masks: Masks | None = None,
        states: RowStates = NO_ROW_STATES,
    ) -> StepResult:
        """Compute a plan's rows (see `Backend.run`)."""
        refuse_unable(self, plan, states)
        start_s = time.perf_counter()
        missing = {chunk.adapter for chunk in plan.chunks} - self._adapted.keys()
        if missing:
            raise EngineError(f"adapter {min(missing)} was removed, or never added: add it first")
        own = cast("Sequence[ReferenceChoice | None]", choices) or [None] * len(plan.chunks)
        passes = plan.passes if all(own) else 1
        chunks, came = plan.chunks, list[list[Peak]]()
        while True:
            rows = [row for chunk in chunks for row in planned_rows(chunk)]
            found = self._streams(chunks, rows, states)
            going = masks([token for token, _ in came[-1]] if came else []) if masks else True
            logits, chosen = self._choose(chunks, rows, found[self.limits.layers.stop], own)
            came.append(chosen)
            if len(came) == passes or not going or self._is_halted or _is_over(own, chosen):
                break
            chunks = tuple(_next(chunk, token) for chunk, (token, _) in zip(chunks, chosen, strict=True))
        self._is_halted = False
        return StepResult(
            chosen,
            logits,
            time.perf_counter() - start_s,
            len(came),
            [[peaks[row][0] for peaks in came[:-1]] for row in range(len(chosen))] if len(came) > 1 else (),
            {layer: np.concatenate(found[layer]) for layer in states.layers},
            self._pooled(chunks, found[self.limits.layers.stop], states),
        )

    def _streams(
        self, chunks: Sequence[Chunk], rows: Sequence[PlannedRow], states: RowStates
    ) -> dict[int, list[Floats]]:
        """Return the residual stream of each row, ``[1, hidden]``, before each layer and after the last one."""
        cache = self._cache
        for chunk in chunks:
            for branch in chunk.branches:
                if branch.copied is not None:
                    cache.copy_page(branch.copied, branch.pages[branch.own])
        x = [self._input(number, row, states) for number, row in enumerate(rows)]
        streams = {self.limits.layers.start: x}
        for layer in self.limits.layers:
            queries = []
            for row, state in zip(rows, x, strict=True):
                query, own = self._adapted[row.adapter].project(state, layer, np.array([row.position]))
                if own is not None:
                    cache.store(layer, row, own.keys, own.values)
                queries.append(query)
            x = [self._layer_end(layer, *each) for each in zip(rows, x, queries, strict=True)]
            streams[layer + 1] = x
        return streams

    def _input(self, number: int, row: PlannedRow, states: RowStates) -> Floats:
        """Return a row's stream before the first layer here: the state it was given, else its token's embedding."""
        if number in states.inputs:
            return np.asarray(states.inputs[number], np.float32).reshape(1, -1)
        if self.limits.layers.start:
            raise EngineError(f"row {number} has no state, and layer {self.limits.layers.start} begins with one")
        return self._oracle.embedded([row.token])

    def _layer_end(self, layer: int, row: PlannedRow, x: Floats, query: Floats) -> Floats:
        keys, values = self._cache.seen(self._oracle.config.kv_layer(layer), row)
        window = self._oracle.config.windows[layer]
        seen = visible(np.array([row.position]), row.view_end, window, row.is_encoded)
        return self._adapted[row.adapter].finish(x, layer, query, keys, values, seen)

    def _choose(
        self,
        chunks: Sequence[Chunk],
        rows: Sequence[PlannedRow],
        streams: Sequence[Floats],
        choices: Sequence[ReferenceChoice | None],
    ) -> tuple[Floats, list[Peak]]:
        """Return the rows of logits that the chunks ask for, and the token chosen in each."""
        logits, chosen, end = list[Floats](), list[Peak](), 0
        for chunk, choice in zip(chunks, choices, strict=True):
            end += len(chunk.tokens)
            last = end - chunk.n_after
            for number in range(last - chunk.n_logits - chunk.n_scored, last) if self._has_head else ():
                logits.append(self._adapted[rows[number].adapter].head(streams[number])[0])
                chosen.append(sampling.choose(logits[-1], rows[number].position + 1, choice))
        return np.array(logits, np.float32).reshape(len(logits), self.limits.vocab_size), chosen

    @property
    def _has_head(self) -> bool:
        return self.limits.layers.stop == self._oracle.config.n_layers

    def _pooled(self, chunks: Sequence[Chunk], streams: Sequence[Floats], states: RowStates) -> Floats | None:
        """Return one vector of each encoded chunk, from its final states."""
        if states.pooling is None:
            return None
        pooled, end = [], 0
        for chunk in chunks:
            end += len(chunk.tokens)
            if chunk.kind is RowKind.ENCODE:
                final = np.concatenate([self._oracle.normed(x) for x in streams[end - len(chunk.tokens) : end]])
                pooled.append(_POOLED[states.pooling](final))
        return np.array(pooled, np.float32)

    def add_adapter(self, number: int, pairs: Mapping[str, LowRankPair], progress: Progress | None = None) -> None:
        """Let chunks name a low-rank adapter, which is used as it is (see `Backend.add_adapter`)."""
        require_per_request(pairs)
        require_room(0, sum(pair.down.nbytes + pair.up.nbytes for pair in pairs.values()), read_host().memory_bytes)
        self._adapted[number] = self._oracle.with_adapter(pairs)

    def remove_adapter(self, number: int) -> None:
        """Forget an adapter."""
        self._adapted.pop(number, None)

    def read_cache(self, layer: int, pages: Sequence[int], count: int) -> NDArray[np.float16]:
        """Return a layer's keys and values of the first tokens in ``pages``: ``[count, 2, heads, dim]``."""
        return self._cache.read(layer, pages, count)

    def stats(self) -> BackendStats:
        """Return numbers for reports; NumPy's own threads are not counted."""
        config = self._oracle.config
        kv_token_bytes = 2 * 2 * config.n_kv_heads * config.head_dim * len(self.limits.layers)
        return BackendStats(1, 1, self._oracle.size_bytes, kv_token_bytes)

    def probe(self) -> None:
        """Run one row of no sequence. Raises what is wrong."""
        self.run(Plan((probe_chunk(self.limits, (0,)),)))

    def halt(self) -> None:
        """End a run of several passes after the pass under way."""
        self._is_halted = True

    def close(self) -> None:
        """Do nothing: the arrays go with the object."""


def _is_over(choices: Sequence[ReferenceChoice | None], chosen: Sequence[Peak]) -> bool:
    """Return whether a sequence ends with its token, or a logit is not a number."""
    return any(
        not np.isfinite(peak) or (choice is not None and token in choice.ends)
        for choice, (token, peak) in zip(choices, chosen, strict=True)
    )


def _next(chunk: Chunk, token: int) -> Chunk:
    """Return the chunk of the pass after one of a single row."""
    return chunk._replace(start=chunk.start + 1, tokens=(token,))
