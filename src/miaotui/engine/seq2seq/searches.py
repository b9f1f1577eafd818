"""Continuous batching of searches: one step encodes sources that begin and computes the rows that searches want next.

Owns admission to passes, and which rows a backend keeps. Knows neither texts nor threads. Searches with a due time go
first, in its order. Where kept rows have no more room, the newest search gives its own back and begins again later; the
first one always has room. Invariants: a search's result does not depend on the others, since rows do not; when a search
ends, is cancelled or fails, its source and rows are released.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from miaotui.backends.seq2seq_backend import NO_PREFIX, Seq2SeqBackend, Source, TargetRow, source_rows, target_rows
from miaotui.engine.search.search import NO_PARENT, FoundTarget, SearchSettings, TargetSearch, start_search
from miaotui.errors import PromptTooLongError, RequestError


@dataclass(eq=False)
class TargetRequest:
    """A source and the search for its target. ``result`` is there once ``is_over``, unless it was cancelled."""

    source: Source
    settings: SearchSettings
    search: TargetSearch
    due_s: float = math.inf
    result: FoundTarget | None = None
    is_over: bool = False
    steps: int = 0
    number: int = 0  # in the order in which they came
    _source_number: int = NO_PREFIX
    _kept: list[int] = field(default_factory=list)

    @property
    def source_rows(self) -> int:
        """Return the rows of its source."""
        return source_rows(self.source)

    @property
    def is_encoded(self) -> bool:
        """Return whether a pass has computed its source, or it is over."""
        return self.is_over or self._source_number != NO_PREFIX

    @property
    def order(self) -> tuple[float, int]:
        """Return its place: by due time, then by submission."""
        return self.due_s, self.number


@dataclass
class TargetStep:
    """The parts of a step: searches that took part, those that ended with it, rows and seconds."""

    requests: list[TargetRequest] = field(default_factory=list)
    ended: list[TargetRequest] = field(default_factory=list)
    source_rows: int = 0
    target_rows: int = 0
    encode_s: float = 0.0
    run_s: float = 0.0


class SearchQueue:
    """Searches that wait and that run, over one backend. `request` may be called from any thread, the rest from one."""

    def __init__(self, backend: Seq2SeqBackend, vocab_size: int, source_vocab_size: int | None = None) -> None:
        self.backend = backend
        self._vocab_size, self._source_size = vocab_size, source_vocab_size or vocab_size
        self._waiting: list[TargetRequest] = []
        self._running: list[TargetRequest] = []
        self._added = 0
        self._is_full = False  # until a search ends, none begins

    def request(self, source: Source, settings: SearchSettings) -> TargetRequest:
        """Return a request, which `add` takes on. Raises `PromptTooLongError` or `RequestError` for impossible ones."""
        limits = self.backend.limits
        if not isinstance(source, np.ndarray):
            source = self._checked(source)
        if settings.num_beams > limits.target_rows:
            raise RequestError(f"num_beams: at most {limits.target_rows} beams fit one pass here")
        if settings.max_length > limits.target_tokens:
            raise RequestError(f"max_length: a target has at most {limits.target_tokens:,} tokens here")
        if settings.num_beams * settings.max_length > limits.kept_rows:
            raise RequestError(
                f"max_length: {settings.num_beams} beams of {settings.max_length:,} tokens do not fit the "
                f"{limits.kept_rows:,} tokens that are kept here: lower max_length or num_beams"
            )
        settings.check_vocabulary(self._vocab_size)
        search = start_search(settings)
        if sum(1 + len(row.before) for row in search.rows) > limits.target_rows:
            raise RequestError(f"prompt: at most {limits.target_rows} tokens fit one pass here")
        return TargetRequest(source, settings, search)

    def _checked(self, source: Sequence[int]) -> tuple[int, ...]:
        """Return the tokens of a source. Raises `PromptTooLongError` or `RequestError` for impossible ones."""
        most = self.backend.limits.source_tokens
        if not source:
            raise RequestError("a source must have at least one token")
        if len(source) > most:
            raise PromptTooLongError(
                f"the text has {len(source):,} tokens, and the model takes {most:,}: shorten it, or split it into parts"
            )
        if not 0 <= min(source) <= max(source) < self._source_size:
            last = self._source_size - 1
            raise RequestError(f"source token ids must be 0 to {last}: these are of another vocabulary")
        return tuple(source)

    def add(self, request: TargetRequest) -> None:
        """Take a request on."""
        self._added += 1
        request.number = self._added
        self._waiting.append(request)
        self._waiting.sort(key=lambda each: each.order)

    def submit(self, source: Source, settings: SearchSettings) -> TargetRequest:
        """Make a request and take it on. Raises as `request` does."""
        request = self.request(source, settings)
        self.add(request)
        return request

    @property
    def is_idle(self) -> bool:
        """Return whether nothing waits or runs."""
        return not self._waiting and not self._running

    @property
    def wanted_rows(self) -> Iterator[int]:
        """Yield how many rows each search that runs wants next."""
        return (len(each.search.rows) for each in self._running)

    @property
    def waiting_tokens(self) -> int:
        """Return the tokens of sources that were not encoded."""
        return sum(each.source_rows for each in self._waiting)

    def step(self, step: TargetStep | None = None, *, promised_only: bool = False) -> TargetStep:
        """Run one pass over sources that begin and one over target rows.

        ``step`` is filled as far as it goes, and returned. ``promised_only``: searches without a due time rest.
        """
        step = step or TargetStep()
        self._admit(step, promised_only)
        chosen, rows = self._rows(promised_only)
        if not rows and promised_only:  # what rests may be what holds the room
            chosen, rows = self._rows(False)
        step.requests += chosen
        if not rows:
            return step
        outcome = self.backend.run(rows)
        step.target_rows, step.run_s = target_rows(rows), outcome.seconds
        first = 0
        for request in chosen:
            last = first + len(request.search.rows)
            before, request._kept = request._kept, outcome.prefixes[first:last]
            self.backend.release(before)
            request.search.advance(outcome.scores.part(first, last))
            request.steps += 1
            first = last
            if not request.search.rows:
                self._align(request)
                request.result = request.search.found()
                self._end(request)
                step.ended.append(request)
        rest = [each for each in self._running if each not in chosen]
        self._running = [*rest, *(each for each in chosen if not each.is_over)]  # others go first next time
        return step

    def _align(self, request: TargetRequest) -> None:
        """Compute the alignment that a search which is over wants, if any."""
        wanted = request.search.alignment
        if wanted is not None:
            self.backend.release(request._kept)
            request._kept = []
            request.search.align(self.backend.align(request._source_number, *wanted))

    def cancel(self, request: TargetRequest) -> None:
        """End a search without a result; one that is over stays as it is."""
        if request.is_over:
            return
        if request in self._waiting:
            self._waiting.remove(request)
        if request in self._running:
            self._running.remove(request)
        self._end(request)

    def _admit(self, step: TargetStep, promised_only: bool) -> None:
        """Encode waiting sources as far as a pass and the room for what is kept allow."""
        waiting = [each for each in self._waiting if each.due_s < math.inf or not promised_only]
        if not waiting or (self._is_full and self._running) or self.backend.free_rows < self._most_rows_next():
            return
        sizes = [each.source_rows for each in waiting[: self.backend.limits.sources]]
        begun = waiting[: self.backend.fitting(sizes)]
        if not begun:
            return
        self._waiting = [each for each in self._waiting if each not in begun]
        step.requests += begun
        start_s = time.perf_counter()
        try:
            numbers = self.backend.encode([each.source for each in begun])
        except BaseException:
            for each in begun:
                each.is_over = True
            raise
        step.source_rows, step.encode_s = sum(sizes[: len(begun)]), time.perf_counter() - start_s
        for each, number in zip(begun, numbers, strict=True):
            each._source_number = number
        self._running += begun

    def _most_rows_next(self) -> int:
        """Return how many rows the running searches may want in the next pass, and one more for one that begins."""
        return 1 + sum(each.settings.num_beams for each in self._running)

    def _rows(self, promised_only: bool) -> tuple[list[TargetRequest], list[TargetRow]]:
        """Return the searches whose rows fit one pass, those due first, and their rows."""
        chosen: list[TargetRequest] = []
        rows: list[TargetRow] = []
        for request in sorted(self._running, key=lambda each: each.due_s):  # of equals those that waited longest
            wanted = _target_rows(request)
            rests = promised_only and request.due_s == math.inf
            if rests or target_rows(rows) + target_rows(wanted) > self.backend.limits.target_rows:
                continue
            rows += wanted
            chosen.append(request)
        if target_rows(rows) > self.backend.free_rows and len(self._running) > 1:
            self._restart(max(self._running, key=lambda each: each.order))
            return self._rows(promised_only)
        return chosen, rows

    def _restart(self, request: TargetRequest) -> None:
        """Give a search's rows and source back; it waits to begin again."""
        self.backend.release(request._kept, [request._source_number])
        request._kept, request._source_number, request.steps = [], NO_PREFIX, 0
        request.search = start_search(request.settings)
        self._is_full = True
        self._running.remove(request)
        self._waiting.append(request)
        self._waiting.sort(key=lambda each: each.order)

    def _end(self, request: TargetRequest) -> None:
        sources = [] if request._source_number == NO_PREFIX else [request._source_number]
        self.backend.release(request._kept, sources)
        request._kept, request._source_number, request.is_over = [], NO_PREFIX, True
        self._is_full = False


def _target_rows(request: TargetRequest) -> list[TargetRow]:
    """Return the rows that a search wants next."""
    kept, source = request._kept or [NO_PREFIX], request._source_number
    return [
        TargetRow(source, NO_PREFIX if row.parent == NO_PARENT else kept[row.parent], *row[1:])
        for row in request.search.rows
    ]
