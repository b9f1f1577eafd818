"""Metrics of pools: each replica's work as the router counts it, beside the metrics of a server.

Owns their names. Knows no HTTP. Invariant: a replica that has left is no longer shown, so that labels do not pile up;
the counters are of pools and only grow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from miaotui.cluster.jobs.pool import JobPool
from miaotui.cluster.pool import Pool

_REPLICA = ("model_name", "replica", "machine")
_GAUGES = (
    ("miaotui_replica_requests", "in_flight", "Requests that a replica has, from all routers"),
    ("miaotui_replica_queue_seconds", "queue_s", "Time to read the prompts that a replica has"),
    ("miaotui_replica_prefix_pages", "prefix_pages", "Pages of prefixes that a replica is thought to hold"),
    ("miaotui_replica_takes_requests", "takes_requests", "1 unless it drains, or failed a moment ago"),
)


class PoolMetrics(Collector):
    """Snapshots of all pools; registers itself."""

    def __init__(self, pools: Mapping[str, Pool | JobPool], registry: CollectorRegistry) -> None:
        self._pools = pools
        registry.register(self)

    def describe(self) -> list[Metric]:
        """Return nothing: the registry must not collect to find names."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Read everything now."""
        replicas = {model: pool.replicas for model, pool in self._pools.items()}
        for name, key, about in _GAUGES:
            gauge = GaugeMetricFamily(name, about, labels=_REPLICA)
            for model, found in replicas.items():
                for replica, each in found.items():
                    gauge.add_metric([model, replica, str(each["machine"])], float(each[key]))
            yield gauge
        resumed = CounterMetricFamily(
            "miaotui_answers_resumed", "Answers that went on in another replica", labels=["model_name"]
        )
        barred = GaugeMetricFamily(
            "miaotui_replicas_refused", "Replicas that differ from the others and may not join", labels=["model_name"]
        )
        for model, pool in self._pools.items():
            resumed.add_metric([model], pool.resumed)
            barred.add_metric([model], len(pool.refused))
        yield resumed
        yield barred
