"""How long streams waited between pieces, as a histogram that many observations do not make slow.

Owns the counts. Knows nothing of requests but their gaps. Invariant: what an answer adds is added
whole, and costs a few microseconds however long the answer is. Source of the names: vLLM.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

NAMES = (
    ("vllm:inter_token_latency_seconds", "Between what one step brought and the next"),
    ("vllm:time_per_output_token_seconds", "The same, under its earlier name"),
)


class Gaps(Collector):
    """Counts for each model; registers itself. Safe to use from several threads."""

    def __init__(self, label: str, bounds: Sequence[float], registry: CollectorRegistry) -> None:
        self._label, self._bounds = label, np.array(bounds)
        self._counts: dict[str, NDArray[np.int64]] = {}
        self._sums: dict[str, float] = {}
        self._lock = threading.Lock()
        registry.register(self)

    def add(self, model: str, gaps: Sequence[float]) -> None:
        """Count the gaps of one answer, in seconds."""
        seconds = np.asarray(gaps, np.float64)
        size = len(self._bounds) + 1
        new = np.bincount(np.searchsorted(self._bounds, seconds), minlength=size)
        with self._lock:
            self._counts[model] = self._counts.get(model, np.zeros(size, np.int64)) + new
            self._sums[model] = self._sums.get(model, 0.0) + float(seconds.sum())

    def describe(self) -> list[Metric]:
        """Nothing in advance, as in `gauges`."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The histograms as they are now."""
        with self._lock:
            found = [(model, self._counts[model], self._sums[model]) for model in self._counts]
        bounds = [*(repr(float(bound)) for bound in self._bounds), "+Inf"]
        for name, about in NAMES:
            family = HistogramMetricFamily(name, about, labels=[self._label])
            for model, counts, total_s in found:
                totals = np.cumsum(counts).tolist()
                family.add_metric([model], list(zip(bounds, totals, strict=True)), total_s)
            yield family
