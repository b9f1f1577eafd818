"""A job: sources whose targets a caller requests of an encoder-decoder, and how far their searches are.

Owns the record and what is left of it, in rows. Knows neither texts nor threads. Invariant: a source's result is kept
once, when its search has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from miaotui.engine.jobs.job import PromisedJob
from miaotui.engine.search.search import FoundTarget
from miaotui.engine.seq2seq.searches import TargetRequest
from miaotui.types import Deadline

FIRST_RATIO, FIRST_STEPS = 1.5, 8  # target tokens of a source token, and beside them, before any were seen
FORGET = 0.99  # of a longest ratio, with each target
MORE_STEPS = 8  # of a search that has gone on longer than was foreseen


class TargetJob(PromisedJob):
    """Sources of one request, each with its search."""

    def __init__(self, requests: Sequence[TargetRequest], deadline: Deadline | None, arrived_s: float) -> None:
        super().__init__(sum(each.source_rows for each in requests), len(requests), deadline, arrived_s)
        self.requests = requests
        self.listener: Callable[[int, tuple[int, ...]], None] | None = (
            None  # of sources' settled tokens; returns at once
        )
        self.is_queued = False  # whether its searches are in the queue of searches

    def put(self, index: int, found: FoundTarget) -> None:
        """Keep the target of one source."""
        self.written_tokens += len(found.tokens) - 1 - len(self.requests[index].settings.prefix)
        self.keep(index, found)

    @property
    def open(self) -> Iterator[TargetRequest]:
        """Yield the searches that have not ended."""
        return (each for each in self.requests if not each.is_over)

    @property
    def tokens_left(self) -> int:
        """Return the tokens of sources that no pass has encoded."""
        return sum(each.source_rows for each in self.open if not each.is_encoded)


class TargetJobs:
    """Jobs that have not ended, by number. Used under one lock."""

    def __init__(self) -> None:
        self._jobs: dict[int, TargetJob] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[TargetJob]:
        return iter(self._jobs.values())

    @property
    def tokens(self) -> int:
        """Return the tokens of sources that no pass has encoded."""
        return sum(job.tokens_left for job in self)

    def add(self, job: TargetJob) -> None:
        """Add a job behind those that were there."""
        self._jobs[job.number] = job

    def drop(self, jobs: Iterable[TargetJob]) -> None:
        """Forget jobs that have ended."""
        for job in jobs:
            self._jobs.pop(job.number, None)


class LengthRatio:
    """Forecast of a target's length: the longest share of its source's that was seen, which fades."""

    def __init__(self, first: float = FIRST_RATIO) -> None:
        self._ratio = first

    def learn(self, request: TargetRequest) -> None:
        """Learn from a search that has ended."""
        seen = (request.steps - FIRST_STEPS) / request.source_rows
        self._ratio = max(seen, self._ratio * FORGET)

    def steps_left(self, request: TargetRequest) -> int:
        """Return about how many more rows a search's targets will have."""
        most = request.settings.max_length - 1 - request.steps
        foreseen = int(self._ratio * request.source_rows) + FIRST_STEPS - request.steps
        return max(min(foreseen, most), min(MORE_STEPS, most), 1)
