"""The reference backend of encoder-decoders: the oracle, row by row.

Read this to see what a `Seq2SeqBackend` does; nothing here is compiled or fast. A kept prefix is a `TargetCache` of its
own, whose arrays are copied when it is continued. Invariant: each source and each row is computed by itself, so its
bits depend on no other.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import count

import numpy as np
from numpy.typing import NDArray

from miaotui.backends.seq2seq_backend import (
    NO_PREFIX,
    Head,
    Seq2SeqIdentity,
    Seq2SeqLimits,
    Source,
    TargetAlignment,
    TargetRow,
    TargetRows,
    source_rows,
    target_rows,
)
from miaotui.backends.target_scores import TargetScores
from miaotui.errors import RequestError
from miaotui.hub.formats.tensors import StoredTensor
from miaotui.model.seq2seq.config import Seq2SeqConfig
from miaotui.model.seq2seq.oracle import Seq2SeqOracle, SourceMemory, TargetCache, checked_frames

TARGET_ROWS = 64
SOURCES = 32


class ReferenceSeq2Seq:
    """A `Seq2SeqBackend` in NumPy."""

    def __init__(
        self,
        config: Seq2SeqConfig,
        weights: Mapping[str, StoredTensor] | Mapping[str, NDArray[np.float32]],
        limits: Seq2SeqLimits | None = None,
    ) -> None:
        most, target = config.encoder.max_tokens, config.decoder.max_tokens
        rows = max(TARGET_ROWS, target) if config.mel_bins else TARGET_ROWS  # a prompt goes as a whole
        self.limits = limits or Seq2SeqLimits(most, most, target, rows, SOURCES)
        self.identity = Seq2SeqIdentity("reference", ("f32",), "float32 in NumPy, 1")
        self._oracle = Seq2SeqOracle(config, weights)
        self._sources: dict[int, SourceMemory] = {}
        self._prefixes: dict[int, TargetCache] = {NO_PREFIX: TargetCache()}
        self._numbers = count()

    @property
    def kept(self) -> tuple[int, int]:
        """Return how many sources and rows are kept."""
        return len(self._sources), len(self._prefixes) - 1

    @property
    def free_rows(self) -> int:
        """Return how many more target rows may be kept now."""
        return self.limits.kept_rows - self.kept[1]

    def fitting(self, sizes: Sequence[int]) -> int:
        """Return how many of the first sources one call of `encode` takes now."""
        ends = np.cumsum(sizes[: self.limits.sources - len(self._sources)])
        return int(np.searchsorted(ends, self.limits.source_rows, side="right"))

    def encode(self, sources: Sequence[Source]) -> list[int]:
        """Encode sources one by one. Raises `RequestError`, see `Seq2SeqBackend.encode`."""
        for source in sources:
            if isinstance(source, np.ndarray):
                checked_frames(self._oracle.config, source)
        sizes = [source_rows(source) for source in sources]
        if self.fitting(sizes) < len(sources):
            raise RequestError(
                f"{len(sources)} sources of {sum(sizes):,} tokens do not fit: share them out over passes"
            )
        memories = [self._oracle.memory(self._oracle.encode(source)) for source in sources]
        numbers = [next(self._numbers) for _ in memories]
        self._sources |= dict(zip(numbers, memories, strict=True))
        return numbers

    def run(self, rows: Sequence[TargetRow]) -> TargetRows:
        """Compute rows one by one. Raises `RequestError`, see `Seq2SeqBackend.run`."""
        count = target_rows(rows)
        if not 1 <= count <= self.limits.target_rows:
            raise RequestError(f"a pass has 1 to {self.limits.target_rows} target rows, not {count}")
        start_s = time.perf_counter()
        computed = [self._row(row) for row in rows]
        numbers = [next(self._numbers) for _ in computed]
        self._prefixes |= {number: cache for number, (_, cache) in zip(numbers, computed, strict=True)}
        logits = np.concatenate([logits for logits, _ in computed])
        return TargetRows(numbers, TargetScores(logits), time.perf_counter() - start_s)

    def _row(self, row: TargetRow) -> tuple[NDArray[np.float32], TargetCache]:
        """Compute a row and those before it one by one; returns the logits behind it."""
        memory, cache = self._sources[row.source], self._prefixes[row.prefix]
        for token in row.before:
            cache = self._oracle.decode(memory, cache, [token])[1]
        return self._oracle.decode(memory, cache, [row.token])

    def align(self, source: int, tokens: Sequence[int], heads: Sequence[Head]) -> TargetAlignment:
        """Compute the cross-attention of a whole target. Raises `RequestError`, see `Seq2SeqBackend.align`."""
        return TargetAlignment(*self._oracle.align(self._sources[source], tokens, heads))

    def release(self, prefixes: Sequence[int], sources: Sequence[int] = ()) -> None:
        """Forget rows and sources."""
        for number in prefixes:
            del self._prefixes[number]
        for number in sources:
            del self._sources[number]

    def close(self) -> None:
        """Forget everything that is kept."""
        self._sources.clear()
        self._prefixes = {NO_PREFIX: TargetCache()}
