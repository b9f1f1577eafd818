"""Continuous batching of searches: one step encodes sources that begin and computes the rows that searches want next.

Owns admission to passes, and which rows a backend keeps. Knows neither texts nor threads. Invariants: a search's result
does not depend on the others, since rows do not; when a search ends, is cancelled or fails, its source and rows are
released.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from miaotui.backends.seq2seq_backend import NO_PREFIX, Seq2SeqBackend, TargetRow
from miaotui.engine.search.search import FoundTarget, TargetSearch, start_search
from miaotui.errors import PromptTooLongError, RequestError
from miaotui.model.seq2seq.generation import GenerationSettings


@dataclass(eq=False)
class TargetRequest:
    """A source and the search for its target. ``result`` is there once ``is_over``."""

    source: tuple[int, ...]
    search: TargetSearch
    most_rows: int  # that the search wants at once
    result: FoundTarget | None = None
    is_over: bool = False
    steps: int = 0
    _source_number: int = NO_PREFIX
    _kept: list[int] = field(default_factory=list)


class SearchQueue:
    """Searches that wait and that run, over one backend. For one thread."""

    def __init__(self, backend: Seq2SeqBackend, vocab_size: int) -> None:
        self.backend = backend
        self._vocab_size = vocab_size
        self._waiting: deque[TargetRequest] = deque()
        self._running: list[TargetRequest] = []

    def submit(self, source: Sequence[int], settings: GenerationSettings) -> TargetRequest:
        """Take a source on. Raises `PromptTooLongError` or `RequestError` for what cannot be computed."""
        limits = self.backend.limits
        if not source:
            raise RequestError("a source must have at least one token")
        if len(source) > limits.source_tokens:
            raise PromptTooLongError(
                f"the text has {len(source):,} tokens, and the model takes {limits.source_tokens:,}: shorten it, or "
                "split it into parts"
            )
        if settings.num_beams > limits.target_rows:
            raise RequestError(f"num_beams: at most {limits.target_rows} beams fit one pass here")
        if settings.max_length > limits.target_tokens:
            raise RequestError(f"max_length: a target has at most {limits.target_tokens:,} tokens here")
        settings.check_vocabulary(self._vocab_size)
        request = TargetRequest(tuple(source), start_search(settings), settings.num_beams)
        self._waiting.append(request)
        return request

    @property
    def is_idle(self) -> bool:
        """Return whether nothing waits or runs."""
        return not self._waiting and not self._running

    def step(self) -> list[TargetRequest]:
        """Run one pass over sources that begin and one over target rows; returns the searches that end with it."""
        self._admit()
        chosen, rows = self._rows()
        if not rows:
            return []
        outcome = self.backend.run(rows)
        ended: list[TargetRequest] = []
        first = 0
        for request in chosen:
            last = first + len(request.search.rows)
            before, request._kept = request._kept, outcome.prefixes[first:last]
            self.backend.release(before)
            request.search.advance(outcome.logits[first:last])
            request.steps += 1
            first = last
            if not request.search.rows:
                self._end(request)
                request.result = request.search.found()
                ended.append(request)
        self._running = [*(each for each in self._running if each not in chosen), *chosen]  # others go first next time
        self._running = [each for each in self._running if not each.is_over]
        return ended

    def cancel(self, request: TargetRequest) -> None:
        """End a search without a result; one that is over stays as it is."""
        if request.is_over:
            return
        if request in self._waiting:
            self._waiting.remove(request)
        if request in self._running:
            self._running.remove(request)
        self._end(request)

    def _admit(self) -> None:
        """Encode waiting sources as far as a pass and the room for kept sources allow."""
        limits = self.backend.limits
        begun: list[TargetRequest] = []
        rows = 0
        while self._waiting and len(self._running) + len(begun) < limits.sources:
            rows += len(self._waiting[0].source)
            if rows > limits.source_rows:
                break
            begun.append(self._waiting.popleft())
        if not begun:
            return
        try:
            numbers = self.backend.encode([each.source for each in begun])
        except BaseException:
            for each in begun:
                each.is_over = True
            raise
        for each, number in zip(begun, numbers, strict=True):
            each._source_number = number
        self._running += begun

    def _rows(self) -> tuple[list[TargetRequest], list[TargetRow]]:
        """Return the searches whose rows fit one pass, first come first served, and their rows."""
        chosen: list[TargetRequest] = []
        rows: list[TargetRow] = []
        for request in self._running:
            wanted = request.search.rows
            if len(rows) + len(wanted) > self.backend.limits.target_rows:
                continue
            kept = request._kept or [NO_PREFIX]
            rows += [TargetRow(request._source_number, kept[row.parent], row.token) for row in wanted]
            chosen.append(request)
        return chosen, rows

    def _end(self, request: TargetRequest) -> None:
        sources = [] if request._source_number == NO_PREFIX else [request._source_number]
        self.backend.release(request._kept, sources)
        request._kept, request._source_number, request.is_over = [], NO_PREFIX, True
