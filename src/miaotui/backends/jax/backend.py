"""A `Backend` over the exported program: plans become rows, logits become tokens.

Owns the order of rows, padding to few sizes (each is compiled once), and the caches of keys and values. Knows neither
formulas nor requests. Tokens are chosen in NumPy, by the reference's definition of a draw. Invariant: padded rows write
to a slot that none reads. CallRows of other sizes are other compiled programs, so equal bytes are not promised.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, cast

import jax
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
    lacking,
    probe_chunk,
    refuse_unable,
)
from miaotui.backends.jax.forward import CallRows, rotations
from miaotui.backends.jax.program import empty_caches, exported, step_of
from miaotui.backends.reference import sampling
from miaotui.backends.reference.sampling import ReferenceChoice, choose
from miaotui.model.adapters.adapter import LowRankPair
from miaotui.model.config import ModelConfig
from miaotui.schedule.plan import PAGE_SIZE, Chunk, Plan
from miaotui.types import Progress

CAPABILITIES: Final = Capabilities(same_bytes=False, promises=False, drafts=False)
LEAST_ROWS, LEAST_PAGES = 32, 8  # of a call that reads a prompt, and of every call: fewer sizes to compile
MOST_SINGLE = 16  # sequences of one row that a call takes
Integers = NDArray[np.int32]


class JaxBackend(NoDraftHead):
    """A `Backend` on JAX's default device."""

    capabilities = CAPABILITIES
    sampling: Sampling = sampling
    is_tuning = False

    def __init__(self, config: ModelConfig, weights: Mapping[str, NDArray[np.float32]], limits: BackendLimits) -> None:
        self.limits, self._config = limits, config
        slots = limits.spare_pages.stop * PAGE_SIZE
        self._unread = slots  # the slot of padded rows
        held = {**weights, **rotations(config, limits.context)}
        self.program = exported(config, held, slots + 1)
        self._weights = {name: jax.numpy.asarray(each) for name, each in held.items()}
        self._caches = empty_caches(config, slots + 1)
        self._step = step_of(self.program)
        device = jax.devices()[0]
        self.identity = BackendIdentity("jax", ("f32",), "f32", f"float32, jax {jax.__version__} on {device.platform}")

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
        if masks is not None:
            masks([])
        own = cast("Sequence[ReferenceChoice | None]", choices) or [None] * len(plan.chunks)
        logits: list[Floats] = [np.empty((0, self.limits.vocab_size), np.float32)] * len(plan.chunks)
        for group in _groups(plan.chunks):
            for number, rows in zip(group, self._logits([plan.chunks[each] for each in group]), strict=True):
                logits[number] = rows
        peaks: list[Peak] = []
        for chunk, rows, choice in zip(plan.chunks, logits, own, strict=True):
            first = chunk.start + len(chunk.tokens) - len(rows)
            peaks += [choose(row, first + at + 1, choice) for at, row in enumerate(rows)]
        return StepResult(peaks, np.concatenate(logits), time.perf_counter() - start_s)

    def _logits(self, chunks: Sequence[Chunk]) -> Iterator[Floats]:
        """Run chunks in one call; yield the rows of logits that each asks for."""
        rows = self._padded(chunks)
        logits, self._caches = self._step(self._weights, self._caches, rows)
        found = np.array(logits)
        for number, chunk in enumerate(chunks):
            yield found[number, : chunk.n_logits + chunk.n_scored]

    def _padded(self, chunks: Sequence[Chunk]) -> CallRows:
        """Return the rows of chunks, padded in each direction to a power of two."""
        n = max(len(chunk.tokens) for chunk in chunks)
        s, n = _size(len(chunks)), _size(n, LEAST_ROWS) if n > 1 else 1
        p = _size(max(len(chunk.pages) for chunk in chunks), LEAST_PAGES)
        k = _size(max(chunk.n_logits + chunk.n_scored for chunk in chunks))
        tokens, positions, pages, picked = (np.zeros((s, width), np.int32) for width in (n, n, p, k))
        places = np.full((s, n), self._unread, np.int32)
        for at, chunk in enumerate(chunks):
            count, wanted = len(chunk.tokens), chunk.n_logits + chunk.n_scored
            where = np.arange(chunk.start, chunk.start + count)
            held = np.asarray(chunk.pages, np.int32)
            tokens[at, :count], positions[at, :count] = chunk.tokens, where
            pages[at, : len(held)] = held
            places[at, :count] = held[where // PAGE_SIZE] * PAGE_SIZE + where % PAGE_SIZE
            picked[at, :wanted] = np.arange(count - wanted, count)
        return CallRows(tokens, positions, places, pages, picked)

    def add_adapter(self, number: int, pairs: Mapping[str, LowRankPair], progress: Progress | None = None) -> None:
        """Refuse: adapters are merged into the model before (`miaotui merge-adapter`). Raises `RequestError`."""
        raise lacking(self, "adapters")

    def remove_adapter(self, number: int) -> None:
        """Do nothing: there is none."""

    def read_cache(self, layer: int, pages: Sequence[int], count: int) -> NDArray[np.float16]:
        """Return a layer's keys and values of the first tokens in ``pages``: ``[count, 2, heads, dim]``."""
        at = np.arange(count)
        slots = np.asarray(pages, np.int32)[at // PAGE_SIZE] * PAGE_SIZE + at % PAGE_SIZE
        found = np.zeros((count, 2, self._config.n_kv_heads, self._config.head_dim), np.float16)
        found[:, 0] = self._caches.keys[layer, slots]
        found[:, 1, :, : self._config.value_dim] = self._caches.values[layer, slots]
        return found

    def stats(self) -> BackendStats:
        """Return numbers for reports; the device's own threads are not counted."""
        config = self._config
        weight_bytes = sum(array.nbytes for array in self._weights.values())
        return BackendStats(1, 1, weight_bytes, kv_token_bytes(config))

    def probe(self) -> None:
        """Run one row of no sequence. Raises what is wrong."""
        self.run(Plan((probe_chunk(self.limits, (0,)),)))

    def halt(self) -> None:
        """Do nothing: a run is one pass."""

    def close(self) -> None:
        """Give the device's memory back."""
        for array in (*self._weights.values(), *self._caches):
            array.delete()
        self._weights = {}


def kv_token_bytes(config: ModelConfig) -> int:
    """Return the bytes of a token's keys and values in float32."""
    return 4 * config.n_kv_heads * (config.head_dim + config.value_dim) * config.n_layers


def _groups(chunks: Sequence[Chunk]) -> list[list[int]]:
    """Return numbers of chunks that one call takes: those of one row together, each other one alone."""
    single = [number for number, chunk in enumerate(chunks) if len(chunk.tokens) == 1]
    groups = [single[first : first + MOST_SINGLE] for first in range(0, len(single), MOST_SINGLE)]
    return groups + [[number] for number, chunk in enumerate(chunks) if len(chunk.tokens) > 1]


def _size(count: int, least: int = 1) -> int:
    """Return the power of two from ``count`` on, and from ``least`` on."""
    return 1 << max(count - 1, least - 1, 0).bit_length()
