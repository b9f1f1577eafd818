"""The seam between scheduling and arithmetic: what an engine asks of the part that computes its passes.

Owns the protocol `Backend` and its value types. It lies here and not in ``engine``, because backends implement it and
imports point downwards. Above it nothing knows an address, a thread or a weight: a plan goes in, tokens and logits come
out. Invariant (`Capabilities`): what a backend cannot do is refused by name, never imitated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from miaotui.backends.drafting import DraftHeadSteps, DraftResult, DraftRun, Quotes
from miaotui.backends.sampling import Distribution
from miaotui.config import Settings
from miaotui.errors import RequestError
from miaotui.model.adapters.adapter import LowRankPair
from miaotui.schedule.plan import Chunk, Plan, RowKind, pages_for
from miaotui.types import Progress

Floats = NDArray[np.float32]
Words = NDArray[np.uint32] | NDArray[np.int32]  # [ceil(vocab / 32)]: token i is allowed by bit i % 32 of word i // 32
Peak = tuple[int, float]  # a token, and the greatest logit of its row
Pooling = Literal["mean", "first", "last"]  # how the states of a text become one vector

# Called in a pass before it chooses, with the tokens that the pass before brought in this run, one of each row: it sets
# the masks of the choices (`TokenChoice.allow`) and returns whether another pass may follow.
Masks = Callable[[Sequence[int]], bool]

NO_STATES: Mapping[int, Floats] = MappingProxyType({})


@dataclass(frozen=True)
class Capabilities:
    """Abilities of a backend; `require` refuses by their names."""

    same_bytes: bool = True  # a row depends neither on the rows beside it nor on how a prompt is cut into chunks
    promises: bool = True  # a pass takes about as long as the last one of its shape, so that times can be promised
    masks: bool = True  # a pass chooses within a mask; without it the sampler chooses after the pass
    drafts: bool = True  # several rows cost little more than one, so that verifying drafts pays
    draft_head: bool = False  # `find_draft_head` and `run_drafting`
    adapters: bool = False  # `Chunk.adapter`
    hidden_states: bool = False  # `RowStates.layers`
    state_inputs: bool = False  # `RowStates.inputs`: rows that begin with a state instead of a token
    encode: bool = False  # chunks of kind `RowKind.ENCODE`
    pooling: bool = False  # `RowStates.pooling`
    resumes: bool = True  # an answer goes on after tokens that are known, `RequestOptions.begun`


@dataclass(frozen=True)
class BackendLimits:
    """Sizes of a backend; all but ``context`` and ``pages`` are of one pass.

    Behind the ``pages`` of the scheduler lie `spare_pages`: enough for one whole context.
    """

    context: int  # tokens: the longest prompt plus answer
    pages: int  # of keys and values, `PAGE_SIZE` tokens each
    rows: int
    logits_rows: int
    draft_rows: int  # drafted tokens, over all sequences
    vocab_size: int
    state_size: int  # values of a row between two layers
    layers: range  # of the model, that are computed here
    passes: int = 1  # that may follow each other in a run
    run_tokens: int = 1  # of one run with a draft head

    @property
    def spare_pages(self) -> range:
        """Pages that no sequence is given."""
        return range(self.pages, self.pages + pages_for(self.context))


class BackendIdentity(NamedTuple):
    """The parts of a backend that decide an answer's bytes, besides the model's file: a key for caches."""

    name: str
    formats: tuple[str, ...]  # of packed weights, sorted
    kv: str  # how keys and values are kept
    arithmetic: str  # changes when the same weights would give other logits


class BackendStats(NamedTuple):
    """Numbers of a running backend."""

    threads: int
    threads_live: int  # fewer while other work keeps a core busy
    weight_bytes: int  # that a pass of one row reads
    kv_token_bytes: int  # keys and values of one token


class TokenChoice(Protocol):
    """One sequence's way to choose tokens within a pass; only the backend that made it looks inside."""

    def allow(self, words: Words | None) -> None:
        """Choose among these tokens at the next position; None: among all.

        ``words`` are contiguous and stay where they are until the pass is over: they may be filled anew.
        """

    def leave(self) -> None:
        """Choose nothing in the next pass and leave its logits as they are."""


class Sampling(Protocol):
    """Choosing tokens from rows of logits (contiguous float32 ``[vocab]``) by the definition in `backends.sampling`."""

    def choice(self, shape: Distribution | None, seed: int, ends: Sequence[int]) -> TokenChoice:
        """Return a way to choose in the pass; ``shape`` None: the greatest logit. A token of ``ends`` ends a run of
        passes.
        """

    def draw(self, row: Floats, peak: float, shape: Distribution, key: int) -> int:
        """Return the token drawn under ``key`` (`noise_key`); ``peak`` is the greatest logit. ``row`` is written
        over.
        """

    def best(self, row: Floats, n: int) -> list[int]:
        """Return the ``n`` tokens of the highest logits above -inf, best first; of equals the lower id first."""

    def restrict(self, row: Floats, words: NDArray[np.uint32]) -> None:
        """Set the logits of tokens that are not allowed to -inf."""

    def log_total(self, row: Floats, peak: float) -> float:
        """Return the natural logarithm of ``sum(exp(row - peak))``; a function of the row alone, bit for bit."""


@dataclass(frozen=True, slots=True)
class RowStates:
    """Inputs of rows that are no tokens, and outputs of rows that are no logits.

    A state is a row of the residual stream, float32 ``[hidden]``. ``inputs`` are states before the first layer that
    the backend computes, by number of the row in the plan: an embedding from elsewhere, or what another backend has
    made of a token in earlier layers. ``layers`` asks for the states before these layers; the number of layers: after
    the last. ``pooling`` asks for one vector of each chunk of kind `RowKind.ENCODE`.
    """

    inputs: Mapping[int, Floats] = field(default_factory=dict)
    layers: tuple[int, ...] = ()
    pooling: Pooling | None = None


NO_ROW_STATES = RowStates()
ADAPTER_SHARE = 0.25  # of the machine's memory, at most, for adapters
UNKNOWN_MEMORY = 8 << 30  # bytes, where the system does not say


class StepResult(NamedTuple):
    """A run's outcome. Arrays are valid until the next run."""

    chosen: Sequence[Peak]  # for each row of logits of the last pass: the token chosen, the best one without a choice
    logits: Floats  # [rows of logits, vocab] of the last pass; rows that were drawn from are written over
    seconds: float
    passes: int = 1
    earlier: Sequence[Sequence[int]] = ()  # for each row of logits the tokens of all passes but the last, if several
    states: Mapping[int, Floats] = NO_STATES  # [rows, hidden] by layer
    pooled: Floats | None = None  # [chunks, hidden]


class Backend(Protocol):
    """A model's arithmetic. One thread at a time runs passes; `halt` and `stats` may come from any."""

    @property
    def capabilities(self) -> Capabilities:
        """Return the things it can do."""

    @property
    def limits(self) -> BackendLimits:
        """Return its sizes."""

    @property
    def identity(self) -> BackendIdentity:
        """Return a key for caches of what it answers."""

    @property
    def sampling(self) -> Sampling:
        """Return its way to choose tokens."""

    @property
    def is_tuning(self) -> bool:
        """Return whether passes are timed one by one now: no run of several then."""

    def run(
        self,
        plan: Plan,
        choices: Sequence[TokenChoice | None] = (),
        masks: Masks | None = None,
        states: RowStates = NO_ROW_STATES,
    ) -> StepResult:
        """Compute a plan's rows; up to ``plan.passes`` follow each other if every chunk has a choice.

        ``choices`` has one entry for each chunk, None where logits are only looked at; () is None for all. A run ends
        early when a sequence ends, a logit is not a number, ``masks`` returns False, or another thread calls `halt`.
        Raises what ``masks`` raises, and `RequestError` for what `capabilities` lacks.
        """

    def run_drafting(
        self,
        chunk: Chunk,
        choice: TokenChoice | None,
        most: int,
        passes: int,
        draft_run: DraftRun,
        watch: Masks | None,
        quotes: Quotes,
    ) -> DraftResult:
        """Run up to ``passes`` over one sequence, between which a draft head drafts; at most ``most`` tokens.

        ``draft_run`` has begun. ``watch`` is called like masks, with all tokens that came since the last call; so is
        ``quotes``, between two passes where `DraftRun.request_quote` was called: it puts a draft and returns its
        length.
        """

    def find_draft_head(self, settings: Settings) -> DraftHeadSteps | None:
        """Return the draft head that was trained for these weights; None: there is none.

        Raises `ModelFormatError` for a file that is no head.
        """

    def add_adapter(self, number: int, pairs: Mapping[str, LowRankPair], progress: Progress | None = None) -> None:
        """Let chunks name a low-rank adapter by ``number``; its pairs are by canonical names of matrices.

        Not while a pass runs. Raises `UnsupportedModelError` for a matrix that cannot be changed here, `RequestError`
        where adapters would take too much memory; then nothing has changed.
        """

    def remove_adapter(self, number: int) -> None:
        """Give an adapter's memory back; no later chunk may name it. Not while a pass runs."""

    def read_cache(self, layer: int, pages: Sequence[int], count: int) -> NDArray[np.float16]:
        """Return a layer's keys and values of the first ``count`` tokens in ``pages``: ``[count, 2, heads, dim]``."""

    def stats(self) -> BackendStats:
        """Return numbers for reports."""

    def probe(self) -> None:
        """Run one row of no sequence. Raises what is wrong."""

    def halt(self) -> None:
        """End a run of several passes after the pass under way."""

    def close(self) -> None:
        """Give the memory of the weights back; the backend must not be used after."""


class Able(Protocol):
    """Anything that says what it can do."""

    @property
    def capabilities(self) -> Capabilities:
        """Return its abilities."""

    @property
    def identity(self) -> BackendIdentity:
        """Return its name, and what its arithmetic is."""


def require(backend: Able, capability: str) -> None:
    """Raise `RequestError` unless ``backend`` has a capability, named as in `Capabilities`."""
    if not getattr(backend.capabilities, capability):
        raise lacking(backend, capability)


_REMEDIES = {"ensemble": "use one of its members alone; an adapter may be merged into one (miaotui merge-adapter)"}


def lacking(backend: Able, capability: str) -> RequestError:
    """Return the error of a capability that ``backend`` does not have."""
    able = backend.capabilities
    has = ", ".join(each.name for each in fields(able) if getattr(able, each.name)) or "nothing of these"
    return RequestError(
        f"the {backend.identity.name} backend has no {capability.replace('_', ' ')} (it has: {has}): "
        f"leave it out, or {_REMEDIES.get(backend.identity.name, 'load the model with another backend')}"
    )


class NoDraftHead:
    """Base of backends that have no draft head: they refuse what needs one."""

    def run_drafting(
        self: Backend,
        chunk: Chunk,
        choice: TokenChoice | None,
        most: int,
        passes: int,
        draft_run: DraftRun,
        watch: Masks | None,
        quotes: Quotes,
    ) -> DraftResult:
        """Refuse: there is no draft head. Raises `RequestError`."""
        raise lacking(self, "draft_head")

    def find_draft_head(self: Backend, settings: Settings) -> DraftHeadSteps | None:
        """Refuse: there is no draft head. Raises `RequestError`."""
        raise lacking(self, "draft_head")


def refuse_unable(backend: Backend, plan: Plan, states: RowStates) -> None:
    """Raise `RequestError` for kinds of rows, adapters, inputs and outputs that ``backend`` does not know."""
    if any(chunk.adapter for chunk in plan.chunks):
        require(backend, "adapters")
    if any(chunk.kind is RowKind.ENCODE for chunk in plan.chunks):
        require(backend, "encode")
    if states.pooling:
        require(backend, "pooling")
    if states.layers:
        require(backend, "hidden_states")
    if states.inputs:
        require(backend, "state_inputs")


def require_room(held: int, needed: int, memory_bytes: int | None) -> None:
    """Raise `RequestError` if adapters of ``held`` bytes and one more of ``needed`` take too much of the memory."""
    most = int((memory_bytes or UNKNOWN_MEMORY) * ADAPTER_SHARE)
    if held + needed > most:
        raise RequestError(
            f"the adapter needs {needed / 1e6:,.0f} MB, and adapters may take {most / 1e6:,.0f} MB of this machine's "
            f"memory, of which {held / 1e6:,.0f} MB are taken: unload another one, or use one of a lower rank"
        )


def probe_chunk(limits: BackendLimits, tokens: Sequence[int], start: int = 0, n_logits: int = 1) -> Chunk:
    """Return rows of no sequence at positions ``start, start + 1, ...`` of the spare pages."""
    pages = tuple(limits.spare_pages[: pages_for(start + len(tokens))])
    return Chunk(0, start, tuple(tokens), pages, n_logits, kind=RowKind.PROBE)
