"""Turns samples into what a person reads and what a program reads.

Owns the table, the checks of the project's promises and the JSON line. Knows nothing of how numbers
are taken. Invariant: a peer counts with the best of its variants, and a ratio is one of medians
from the same run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import median

from benchmarks.peers.engines import LLAMA_CPP, OPENVINO, OURS, OURS_AVX2, Engine
from benchmarks.peers.measure import BESIDE, BUSY, Results
from benchmarks.peers.models import ModelFile
from benchmarks.peers.starts import FIRST, SECOND
from benchmarks.peers.workloads import DECODE_1, DECODE_8, PREFILL, TTFT, Workload
from miaotui.bench.report import aligned

MEMORY_ALLOWANCE_BYTES = 250 * 10**6
KV_POSITION = 40 + 64  # the mean context of the decode workload, in tokens


@dataclass(frozen=True)
class Check:
    """One promise: the value reached, what must be and what is aimed at."""

    name: str
    value: float
    must: float
    aim: float
    unit: str
    higher_is_better: bool = True

    @property
    def verdict(self) -> str:
        """``aim``, ``must`` or ``MISSED``."""
        sign = 1 if self.higher_is_better else -1
        if sign * self.value >= sign * self.aim:
            return "aim"
        return "must" if sign * self.value >= sign * self.must else "MISSED"


@dataclass(frozen=True)
class Outcome:
    """Everything measured on one model."""

    model: ModelFile
    engines: Sequence[Engine]
    results: Results
    memory: dict[str, dict[str, int]]  # engine label -> bytes

    def best(self, name: str, workload: str, higher_is_better: bool = True) -> float | None:
        """The best median among the variants of the engine ``name``."""
        labels = [engine.label for engine in self.engines if engine.name == name]
        medians = [self.results[key].median for label in labels if (key := (label, workload)) in self.results]
        if not medians:
            return None
        return max(medians) if higher_is_better else min(medians)

    @property
    def bandwidths(self) -> tuple[float, float]:
        """The least and the greatest read bandwidth beside decoding, bytes per second; zeros if not measured."""
        found = [v for (_, name), each in self.results.items() if name == BESIDE for v in each.values]
        return (min(found), max(found)) if found else (0.0, 0.0)

    def limit(self, bandwidth: float) -> float:
        """Tokens per second when nothing but reading weights and KV takes time."""
        bytes_per_token = self.model.weight_bytes + KV_POSITION * self.model.kv_bytes_per_token
        return bandwidth / bytes_per_token

    def share_of_limit(self, name: str) -> float | None:
        """What an engine's decoding reaches of the limit measured beside it: the median of the samples' shares."""
        shares = []
        for engine in self.engines:
            key, beside = (engine.label, DECODE_1.name), (engine.label, BESIDE)
            if engine.name == name and key in self.results and beside in self.results:
                pairs = zip(self.results[key].values, self.results[beside].values, strict=True)
                shares.append(median(speed / self.limit(bandwidth) for speed, bandwidth in pairs))
        return max(shares, default=None)


def checks(outcome: Outcome) -> Iterator[Check]:
    """The promises of the project, as far as this run can tell."""
    yield from _decode_checks(outcome)
    yield from _ratio_checks(outcome)
    small = outcome.model.weights < 500e6
    for name, must, aim, unit in ((TTFT.name, 25, 15, "ms"), (FIRST, 60, 30, "s"), (SECOND, 2.0, 1.0, "s")):
        value = outcome.best(OURS, name, higher_is_better=False)
        if small and value is not None:
            yield Check(name, value, must, aim, unit, higher_is_better=False)
    busy = outcome.best(OURS, BUSY)
    if busy is not None:
        yield Check("one core kept busy", busy, 0.5, 0.7, "of quiet speed")
    yield from _memory_check(outcome)


def _decode_checks(outcome: Outcome) -> Iterator[Check]:
    avx2 = outcome.best(OURS_AVX2, DECODE_1.name)
    peers = [p for name in (LLAMA_CPP, OPENVINO) if (p := outcome.best(name, DECODE_1.name))]
    share, with_avx2 = (outcome.share_of_limit(name) for name in (OURS, OURS_AVX2))
    if share:
        yield Check("decode 1, of the read limit", share, 0.8, 0.9, "")
    if with_avx2:
        yield Check("decode 1 with AVX2, of the read limit", with_avx2, 0.7, 0.7, "")
    if avx2 and peers:
        yield Check("decode 1 with AVX2, over the better peer", avx2 / max(peers), 1.0, 1.0, "x")


def _ratio_checks(outcome: Outcome) -> Iterator[Check]:
    for workload, names, must, aim in (
        (DECODE_1, (LLAMA_CPP,), 1.6, 2.0),
        (DECODE_8, (LLAMA_CPP, OPENVINO), 2.5, 4.0),
        (PREFILL, (OPENVINO,), 2.0, 3.5),
    ):
        ours = outcome.best(OURS, workload.name)
        peers = [p for name in names if (p := outcome.best(name, workload.name))]
        if ours and peers:
            text = " and ".join(names)
            yield Check(f"{workload.name}, over {text}", ours / max(peers), must, aim, "x")


def _memory_check(outcome: Outcome) -> Iterator[Check]:
    memory = outcome.memory.get(OURS, {})
    if "weights_bytes" in memory:
        extra = memory["peak_rss_bytes"] - memory["weights_bytes"] - memory["kv_bytes"]
        yield Check("memory beyond packed weights and KV", extra / 1e6, 250, 250, "MB", higher_is_better=False)


def table(outcome: Outcome, workloads: Sequence[Workload]) -> str:
    """All samples: one row for each number, one column for each engine."""
    names = [workload.name for workload in workloads] + [BUSY, FIRST, SECOND]
    labels = [engine.label for engine in outcome.engines]
    rows = [["", *labels]]
    for name in names:
        cells = [outcome.results.get((label, name)) for label in labels]
        unit = next((cell.unit for cell in cells if cell), None)
        if unit is not None:
            rows.append([f"{name} [{unit}]", *(cell.text() if cell else "-" for cell in cells)])
    peaks = [outcome.memory.get(label, {}).get("peak_rss_bytes") for label in labels]
    rows.append(["peak memory [MB]", *(f"{peak / 1e6:.0f}" if peak else "-" for peak in peaks)])
    return aligned(rows)


def check_table(found: Sequence[Check]) -> str:
    """The promises and how they fared."""
    rows = [["promise", "value", "must", "aim", "reached"]]
    for check in found:
        numbers = [f"{x:.3g} {check.unit}".strip() for x in (check.value, check.must, check.aim)]
        rows.append([check.name, *numbers, check.verdict])
    return aligned(rows)


def as_dict(outcome: Outcome, found: Sequence[Check]) -> dict[str, object]:
    """One model's part of the JSON line."""
    measured: dict[str, dict[str, object]] = {}
    for (label, name), series in outcome.results.items():
        measured.setdefault(label, {})[name] = series.as_dict()
    return {
        "sha256": outcome.model.sha256,
        "weights": outcome.model.weights,
        "read_bandwidth_bytes_per_s": outcome.bandwidths,
        "limit_tokens_per_s": [outcome.limit(each) for each in outcome.bandwidths],
        "measured": measured,
        "memory": outcome.memory,
        "checks": [{**asdict(check), "reached": check.verdict} for check in found],
    }
