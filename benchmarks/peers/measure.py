"""Takes the numbers: warm-up, interleaved repetitions, quiet checks, the busy neighbour, starts.

Owns the order of things: within a repetition every engine answers the same fresh prompts, one after
the other, before the next repetition begins, so that slow drifts of the machine meet all engines
alike. Knows nothing of requirements. A sample disturbed by strangers is taken again, and marked
when it stays disturbed.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from benchmarks.machine import QUIET_CORES, Strangers, busy_neighbour, wait_until_quiet
from benchmarks.peers.engines import Engine
from benchmarks.peers.session import Session
from benchmarks.peers.workloads import DECODE_1, Workload
from miaotui.kernels.platform.measure import read_bandwidth

ATTEMPTS = 3
BUSY = "one core kept busy"
BESIDE = "read bandwidth beside decode"


@dataclass(frozen=True)
class Sample:
    """One measured value, and the cores strangers used meanwhile."""

    value: float
    strangers: float = 0.0


@dataclass
class Series:
    """The samples of one number."""

    unit: str
    samples: list[Sample] = field(default_factory=list)

    def add(self, sample: Sample) -> None:
        """Append one sample."""
        self.samples.append(sample)

    @property
    def values(self) -> list[float]:
        """The samples' values."""
        return [sample.value for sample in self.samples]

    @property
    def median(self) -> float:
        """The number that counts."""
        return median(self.values)

    @property
    def disturbed(self) -> int:
        """How many samples strangers disturbed."""
        return sum(sample.strangers > QUIET_CORES for sample in self.samples)

    def text(self) -> str:
        """Median, range and the number of disturbed samples."""
        numbers = (self.median, min(self.values), max(self.values))
        text = "{} ({}-{})".format(*(f"{x:.0f}" if x >= 100 else f"{x:.3g}" for x in numbers))
        return f"{text} !{self.disturbed}" if self.disturbed else text

    def as_dict(self) -> dict[str, object]:
        """For the JSON line."""
        return {
            "median": self.median,
            "min": min(self.values),
            "max": max(self.values),
            "samples": len(self.values),
            "disturbed": self.disturbed,
            "unit": self.unit,
        }


@dataclass(frozen=True)
class Plan:
    """How carefully to measure."""

    repetitions: int
    patience_s: float  # how long to wait for quiet before a sample
    seed: int
    n_vocab: int
    threads: int  # that read memory where its bandwidth is measured


Results = dict[tuple[str, str], Series]
"""(engine label, workload name) -> samples."""


def interleaved(sessions: Sequence[Session], workloads: Sequence[Workload], plan: Plan) -> Results:
    """Every workload on every engine, turn by turn.

    How fast memory is just then is measured before and after each sample of one stream's decoding: on
    shared machines it changes from minute to minute, and what it limits changes with it.
    """
    results: Results = {}
    for workload in workloads:
        for session in sessions:  # warm-up, not counted
            sampler = Sampler(plan, random.Random(f"{plan.seed} warm-up"))
            session.generate(sampler.prompts(workload), workload.new_tokens)
        for repetition in range(plan.repetitions):
            for session in sessions:  # the same prompts for all
                sampler = Sampler(plan, random.Random(f"{plan.seed} {workload.name} {repetition}"))
                key = (session.engine.label, workload.name)
                series = results.setdefault(key, Series(workload.unit))
                before = read_bandwidth(plan.threads) if workload.name == DECODE_1.name else 0.0
                series.add(sampler.take(session, workload))
                if workload.name == DECODE_1.name:
                    beside = (before + read_bandwidth(plan.threads)) / 2
                    found = results.setdefault((session.engine.label, BESIDE), Series("bytes/s"))
                    found.add(Sample(1e9 * beside))
    return results


def beside_neighbour(sessions: Sequence[Session], workload: Workload, plan: Plan) -> Results:
    """Each engine's decode speed while one core is kept busy, over its quiet speed just before."""
    sampler = Sampler(plan, random.Random(plan.seed + 1))
    results: Results = {}
    for _ in range(plan.repetitions):
        for session in sessions:
            quiet = sampler.take(session, workload)
            busy = sampler.take(session, workload, busy_neighbour)
            series = results.setdefault((session.engine.label, BUSY), Series("of its quiet speed"))
            strangers = max(quiet.strangers, busy.strangers)
            series.add(Sample(busy.value / quiet.value, strangers))
    return results


@dataclass
class Sampler:
    """Takes samples with fresh prompts from ``source``."""

    plan: Plan
    source: random.Random

    def prompts(self, workload: Workload) -> list[list[int]]:
        """Draw prompts that no engine has seen."""
        return workload.prompts(self.source, self.plan.n_vocab)

    def take(
        self,
        session: Session,
        workload: Workload,
        beside: Callable[[], AbstractContextManager[int | None]] = nullcontext,
    ) -> Sample:
        """Return the least disturbed of up to `ATTEMPTS` samples (one without patience)."""
        samples: list[Sample] = []
        while len(samples) < ATTEMPTS:
            wait_until_quiet(self.plan.patience_s)
            with beside() as neighbour:
                known = [session.pid] if neighbour is None else [session.pid, neighbour]
                strangers = Strangers(known)
                answers = [
                    session.generate(self.prompts(workload), workload.new_tokens) for _ in range(workload.requests)
                ]
                samples.append(Sample(workload.value(answers), strangers.cores()))
            if samples[-1].strangers <= QUIET_CORES or not self.plan.patience_s:
                break
        best = min(samples, key=lambda sample: sample.strangers)
        print(f"  {session.engine.label}, {workload.name}: {best.value:.1f}", file=sys.stderr)
        return best


def open_sessions(stack: ExitStack, engines: Sequence[Engine], gguf: Path, folder: Path) -> list[Session]:
    """Start all ``engines`` on one model and wait until each has loaded it.

    Each is started twice: what it caches on disk is there the second time, which is the one whose
    memory counts.
    """
    sessions = []
    for index, engine in enumerate(engines):
        with Session(engine, gguf, folder / f"{index}.log") as first:
            first.wait_ready()
        session = stack.enter_context(Session(engine, gguf, folder / f"{index}.log"))
        session.wait_ready()
        sessions.append(session)
    return sessions
