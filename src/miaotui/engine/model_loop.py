"""The seam between what serves a model and what runs it: a loop whose engine is in this process, or in others.

Owns nothing but the protocols: the names that servers, metrics and quotes read. `engine.loop.EngineLoop` and
`engine.remote.loop.RemoteLoop` fulfil them. Invariant: whatever is read here holds for both; what one of them cannot do
it refuses by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from miaotui.backends.backend import BackendIdentity, BackendStats, Capabilities
from miaotui.engine.abilities import ModelAbilities
from miaotui.engine.adapters import Adapters
from miaotui.engine.constraint import Constraint
from miaotui.engine.reading.readers import Readers, RequestObserver
from miaotui.engine.request import Request, RequestOptions
from miaotui.model.config import ModelConfig
from miaotui.schedule.plan import StepLimits
from miaotui.schedule.scheduler import SchedulerStats
from miaotui.text.chat import ChatEncoder, ChatTemplate
from miaotui.text.tokenizers.tokenizer import Tokenizer
from miaotui.types import SamplingParams

if TYPE_CHECKING:  # imported by the first deadline
    import numpy as np
    from numpy.typing import NDArray

    from miaotui.engine.speculator import Speculator
    from miaotui.schedule.promises.admission import AdmissionCounts, AdmissionLimits, Quote
    from miaotui.schedule.promises.capacity import Capacity
    from miaotui.schedule.promises.cost import CostModel


class ModelParts(Protocol):
    """The parts of a model that its text needs."""

    @property
    def path(self) -> Path:
        """Return where its files lie."""

    @property
    def config(self) -> ModelConfig:
        """Return its sizes."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Return its tokenizer."""

    @property
    def chat(self) -> ChatEncoder:
        """Return the encoder of its conversations."""

    @property
    def template(self) -> ChatTemplate:
        """Return its chat template."""

    @property
    def context(self) -> int:
        """Return tokens of the longest prompt plus answer."""

    def identity(self, engine: str) -> str:
        """Return a digest of what decides its answers, and of ``engine``."""


class BackendNumbers(Protocol):
    """Numbers and abilities of the arithmetic."""

    @property
    def capabilities(self) -> Capabilities:
        """Return its abilities."""

    @property
    def identity(self) -> BackendIdentity:
        """Return what its arithmetic is."""

    def stats(self) -> BackendStats:
        """Return a snapshot."""


class ScheduleSizes(Protocol):
    """Sizes of a schedule."""

    @property
    def n_pages(self) -> int:
        """Return how many pages there are."""

    @property
    def max_sequences(self) -> int:
        """Return how many answers are written at once."""

    @property
    def chunk_size(self) -> int:
        """Return the rows of a prompt that one step reads."""


class ScheduleNumbers(Protocol):
    """Numbers of a schedule."""

    @property
    def config(self) -> ScheduleSizes:
        """Return its sizes."""

    def stats(self) -> SchedulerStats:
        """Return a snapshot."""


class EngineNumbers(Protocol):
    """An engine, as far as servers look into it."""

    @property
    def speculation(self) -> Speculator | None:
        """Return what drafts tokens; None without."""

    @property
    def limits(self) -> StepLimits:
        """Return the bounds of its next steps."""

    @property
    def pass_s(self) -> float:
        """Return the seconds of arithmetic of the last step."""

    @property
    def backend(self) -> BackendNumbers:
        """Return the arithmetic's numbers."""

    @property
    def scheduler(self) -> ScheduleNumbers:
        """Return the schedule's numbers."""

    def prepare(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        namespace: int = 0,
        constraint: Constraint | None = None,
        begun: Sequence[int] = (),
    ) -> Request:
        """Return a checked request, see `RequestPreparation.prepare`."""


class Book(Protocol):
    """Counts and bounds of promises."""

    limits: AdmissionLimits

    @property
    def counts(self) -> AdmissionCounts:
        """Return how many were kept, missed and refused."""


class Quoter(Protocol):
    """Maker of predictions."""

    def quote(self, request: Request, *, is_length_named: bool) -> Quote:
        """Return the prediction for a request that is not run."""


class ModelLoop(Protocol):
    """One model that runs. Calls may come from any thread and return at once."""

    readers: Readers
    observer: RequestObserver | None

    @property
    def model(self) -> ModelParts:
        """Return what belongs to its text."""

    @property
    def engine(self) -> EngineNumbers:
        """Return the engine, or what stands for those elsewhere."""

    @property
    def adapters(self) -> Adapters:
        """Return its low-rank adapters."""

    @property
    def promises(self) -> Quoter | None:
        """Return what makes predictions; None before `calibrate`."""

    @property
    def admission(self) -> Book:
        """Return the promises that were made."""

    @property
    def cost(self) -> CostModel:
        """Return the times of passes."""

    @property
    def abilities(self) -> ModelAbilities:
        """Return what requests to it can have; `submit` refuses the rest by name."""

    @property
    def can_promise(self) -> bool:
        """Return whether deadlines can be promised."""

    @property
    def healthy(self) -> bool:
        """Return whether requests are taken."""

    @property
    def may_sleep(self) -> bool:
        """Return whether its engines end without requests, and the next one starts one: trials are no requests."""

    @property
    def in_flight(self) -> int:
        """Requests that have not ended."""

    @property
    def unread(self) -> int:
        """Requests that were submitted and not left."""

    def submit(self, prompt: Sequence[int], params: SamplingParams, options: RequestOptions = ...) -> Request:
        """Take a request on. Raises `RequestError`, `RefusedError`."""

    def leave(self, request: Request) -> None:
        """Stop reading a request, and cancel it if it has not ended."""

    def cancel(self, request: Request) -> None:
        """End a request early."""

    def holds(self, request: Request) -> bool:
        """Return whether something is still kept for a request."""

    def logits(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """Return the logits after each token, float32 ``[n, vocab]``. Raises `RequestError` where no engine is here."""

    def calibrate(self, cost: CostModel | None = None, limits: AdmissionLimits | None = None) -> None:
        """Measure what passes cost; ``limits`` bound what may be under way."""

    def capacity(self) -> Capacity:
        """Return the answers that can be promised when nothing else runs."""

    def prompt_budget(self, deadline_ms: float, answer_tokens: int) -> int:
        """Return tokens of a prompt that can be read with time left for an answer."""

    def close(self) -> None:
        """Cancel what is running and end it."""
