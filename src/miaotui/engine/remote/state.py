"""Numbers of engines in other processes, in the places where the numbers of an engine here would be found.

Owns that likeness: schedules, machines, costs and promises of all engines together, as health checks, metrics and
quotes read them. Knows no way to an engine. Invariant: everything shown was published by an engine or counted here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from miaotui.backends.backend import BackendIdentity, BackendStats, Capabilities
from miaotui.engine.abilities import ModelAbilities
from miaotui.schedule.promises.admission import AdmissionCounts, AdmissionLimits
from miaotui.schedule.promises.cost import CostRates
from miaotui.schedule.scheduler import SchedulerStats
from miaotui.types import Promise

NO_RATES = CostRates(((1, 0.01), (2, 0.01)), 0.0, 0.0)  # until the first engine has published its own


@dataclass(frozen=True)
class RemoteState:
    """The state of all engines of one model, as published and counted last; seconds, bytes, counts."""

    engines: int = 0  # that take requests
    asleep: bool = False  # none runs, and the next request starts one
    adapters: bool = False  # whether they take adapters
    promises: bool = True  # whether they can promise deadlines
    running: int = 0
    waiting: int = 0
    pages: int = 1
    pages_used: int = 0
    width: int = 1  # answers at once
    chunk_rows: int = 1
    threads: int = 0
    weight_bytes: int = 0  # of one engine
    kv_token_bytes: int = 0
    rates: CostRates = NO_RATES
    pace: float = 1.0


@dataclass(frozen=True)
class RemoteSizes:
    """Sizes of all engines together, by the names of `ScheduleConfig`."""

    n_pages: int
    max_sequences: int
    chunk_size: int


class RemoteScheduler:
    """Schedules of all engines together."""

    def __init__(self, state: RemoteState) -> None:
        self._state = state
        self.config = RemoteSizes(max(state.pages, 1), max(state.width, 1), max(state.chunk_rows, 1))

    def stats(self) -> SchedulerStats:
        """Return a snapshot."""
        state = self._state
        return SchedulerStats(state.pages - state.pages_used, state.pages_used, 0, state.running, state.waiting, 0, 0)


def abilities_of_replicas(state: RemoteState) -> ModelAbilities:
    """Return what requests to our own engines in other processes can have."""
    return ModelAbilities(
        engine="a model of a cluster",
        otherwise="ask a single server",
        promises="kept" if state.promises else "none",
        adapters=state.adapters,
        prompt_logprobs=False,
        explanations=False,
    )


class RemoteMachines:
    """Machines of all engines together."""

    identity = BackendIdentity("cluster", (), "", "")

    def __init__(self, state: RemoteState, abilities: ModelAbilities) -> None:
        self._state, self._abilities = state, abilities

    @property
    def capabilities(self) -> Capabilities:
        """Return what requests to these engines can have."""
        able = self._abilities
        return Capabilities(able.same_bytes, able.promises != "none", masks=False, drafts=False, adapters=able.adapters)

    def stats(self) -> BackendStats:
        """Return a snapshot."""
        state = self._state
        return BackendStats(state.threads, state.threads, state.weight_bytes, state.kv_token_bytes)

    def halt(self) -> None:
        """Do nothing: passes elsewhere end by themselves."""


@dataclass
class RemoteAdmission:
    """Counts and bounds of requests that went through this process."""

    counts: AdmissionCounts = field(default_factory=AdmissionCounts)
    limits: AdmissionLimits = field(default_factory=AdmissionLimits)

    def settle(self, promise: Promise, hand_over_s: float, admitted: bool) -> None:
        """Count an answer that was read whole, see `SettledListener`."""
        if promise.met is not None:
            self.counts.met += promise.met
            self.counts.missed += not promise.met
        self.counts.shortened += promise.shortened
