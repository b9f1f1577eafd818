"""Jobs of encoders and encoder-decoders at this moment, each with the account of its HTTP request, and their counts.

Owns the list, which a server that drains cancels, and the counters beside those of answers (`metrics`). Knows no text.
Invariant: a job is in the list from its submission until its request has its results or has gone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from miaotui.engine.jobs.job import PromisedJob
from miaotui.errors import OverloadedError, RefusedError
from miaotui.serve.middleware.access import current
from miaotui.serve.ops.metrics import Metrics


class EncoderJobs:
    """The jobs of one server's encoders and encoder-decoders. Used in its event loop alone."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._open: dict[int, PromisedJob] = {}

    def __len__(self) -> int:
        return len(self._open)

    @contextmanager
    def tracking(self, model: str, job: PromisedJob) -> Iterator[None]:
        """Have a job in the list for the time of the block, and count it when the block is left."""
        account = current()
        if account is not None:
            account.model = model
            account.use(prompt=job.n_tokens)
        self._open[job.number] = job
        try:
            yield
        finally:
            job.cancel()
            del self._open[job.number]
            self._metrics.encoded(model, job)

    def refused(self, model: str, error: RefusedError) -> None:
        """Count a sound request that was not taken on."""
        account = current()
        if account is not None:
            account.model = model
        self._metrics.refused(model, error)

    def cancel_all(self) -> int:
        """End everything with an error that says why, and return the count."""
        for job in self._open.values():
            job.end(time.perf_counter(), OverloadedError("the server is stopping: ask again in a moment", 1.0))
        return len(self._open)
