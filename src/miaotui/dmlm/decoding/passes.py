"""Passes of one text over a `Backend`: which rows a pass computes, and which keys and values are still good.

Owns a range of pages, and how far what lies in them is final. Knows no rule of acceptance. With
blocks that see only blocks before them the cache is exact: the keys and values of a finished block never change, so a
pass begins at the first block that is not final. A text whose positions all see each other is computed whole in each
pass, unless ``keep`` says how much of it may be taken as it was (Fast-dLLM's prefix cache, which is lossy). Invariant:
with an exact cache the logits are bit for bit those of a pass over the whole text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
from numpy.typing import NDArray

from miaotui.backends.backend import Backend, Sampling, require
from miaotui.errors import PromptTooLongError, RequestError
from miaotui.model.masked import MaskedConfig
from miaotui.schedule.plan import Chunk, Plan, RowKind, pages_for

Floats = NDArray[np.float32]
Turn = Callable[[], AbstractContextManager[object]]


class TextPasses:
    """Passes over one text at a time; ``passes`` and ``rows`` count them since `begin`.

    ``turn`` is entered around each pass: models of one process share the cores. ``pages`` are its own; None: those
    behind the scheduler's.
    """

    def __init__(
        self,
        backend: Backend,
        masked: MaskedConfig,
        *,
        exact_cache: bool = True,
        turn: Turn = nullcontext,
        pages: range | None = None,
    ) -> None:
        require(backend, "encode")
        self._turn, self._pages = turn, backend.limits.spare_pages if pages is None else pages
        self._backend, self._masked, self._uses_cache = backend, masked, exact_cache
        self._final = 0  # positions whose keys and values are final
        self._known: tuple[int, ...] = ()  # their tokens
        self._left = False  # whether an earlier pass left this text in the pages
        self.passes = self.rows = 0

    @property
    def sampling(self) -> Sampling:
        """Return the backend's way to choose tokens."""
        return self._backend.sampling

    @property
    def most_tokens(self) -> int:
        """Return the tokens of the longest text."""
        limits = self._backend.limits
        return limits.context if self._masked.block else min(limits.context, limits.rows)

    @property
    def most_rows(self) -> int:
        """Return the rows of the largest pass."""
        return self._backend.limits.rows

    @property
    def final(self) -> int:
        """Return how many positions have keys and values that are final."""
        return self._final

    def move(self, pages: range) -> None:
        """Go on in other pages: what lay in the old ones is computed again."""
        self._pages, self._final, self._known, self._left = pages, 0, (), False

    def begin(self) -> None:
        """Forget the last text."""
        self._final, self._known, self._left, self.passes, self.rows = 0, (), False, 0, 0

    def logits(self, tokens: Sequence[int], first: int, end: int, keep: int = 0) -> Floats:
        """Compute the logits of positions ``first .. end - 1`` of a text, float32 ``[end - first, vocab]``.

        ``keep`` positions may be taken as an earlier pass left them, although they would change (lossy). Raises
        `PromptTooLongError` for texts beyond the context, or beyond one pass where positions all see each other.
        """
        text, block = tuple(tokens), self._masked.block
        self._require_fitting(len(text))
        shift = 1 if self._masked.shifted else 0
        if first < shift or not first < end <= len(text):
            raise RequestError(f"logits of positions {first} to {end} cannot be had of a text of {len(text)} tokens")
        start = self._start(text, max(keep, 0))
        start = min(start, first - shift)
        stop = min(len(text), -(-end // block) * block) if block else len(text)
        while block and stop - start > self.most_rows:  # blocks before the wanted ones, as many as a pass holds
            some = min((start + self.most_rows) // block * block, first // block * block)
            if some <= start:
                raise PromptTooLongError(f"a block has {stop - start} rows, and a pass at most {self.most_rows}")
            self._run(text, start, some, some, some)
            start = some
        found = self._run(text, start, stop, first - shift, end - shift)
        self._left = True
        if block:
            self._finish(text, first // block * block)
        return found

    def _start(self, text: tuple[int, ...], keep: int) -> int:
        """Return the first position whose keys and values are not those of this text."""
        if not self._masked.block or not self._uses_cache:
            return keep if not self._masked.block and self._left else 0
        same = min(self._final, len(text))
        if text[:same] != self._known[:same]:
            differs = next(at for at in range(same) if text[at] != self._known[at])
            same = differs // self._masked.block * self._masked.block
        return same

    def _finish(self, text: tuple[int, ...], count: int) -> None:
        """Note that the first ``count`` positions, whole blocks without masks, are final."""
        clean = next((at for at in range(count) if text[at] == self._masked.mask_id), count)
        self._final = clean // self._masked.block * self._masked.block
        self._known = text[: self._final]

    def _run(self, text: tuple[int, ...], start: int, stop: int, first: int, end: int) -> Floats:
        """Run one pass over ``start .. stop - 1`` and return the logits of rows ``first .. end - 1``."""
        limits = self._backend.limits
        pages = tuple(self._pages[: pages_for(stop)])
        found: list[Floats] = []
        step = limits.logits_rows
        for at in range(first, max(end, first + 1), step):  # mostly once
            upto = min(at + step, end)
            chunk = Chunk(
                0, start, text[start:stop], pages, upto - at, kind=RowKind.ENCODE,
                block=self._masked.block, n_after=stop - upto if upto > at else 0,
            )  # fmt: skip
            with self._turn():
                found.append(np.array(self._backend.run(Plan((chunk,))).logits, np.float32))
            self.passes, self.rows = self.passes + 1, self.rows + stop - start
        return np.concatenate(found)

    def _require_fitting(self, n: int) -> None:
        limits = self._backend.limits
        if n > limits.context:
            raise PromptTooLongError(
                f"prompt and answer have {n:,} tokens, and the context holds {limits.context:,}: shorten one of them"
            )
        if not self._masked.block and n > limits.rows:
            raise PromptTooLongError(
                f"prompt and answer have {n:,} tokens that all see each other, and a pass holds {limits.rows:,}: "
                "shorten one of them, or load the model with a larger chunk_size"
            )
