"""The time of passes over masked texts, and how many passes an answer takes.

Owns their calibration, the passes of a text by its state, and how many tokens a pass has brought so far. The curve,
the pace and the errors of forecasts are `CostModel`'s. Knows neither clocks nor requests. Invariant: at worst each pass
brings one token, so that no text takes more passes than are counted for it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from miaotui.backends.backend import Backend
from miaotui.dmlm.decoding.decode import BLOCK, DecodeOptions, propose
from miaotui.model.masked import MaskedConfig
from miaotui.schedule.plan import Chunk, Plan, RowKind, pages_for
from miaotui.schedule.promises.cost import PROBE_WEIGHT, WILD, Answered, CostModel, CostRates, StepShape
from miaotui.schedule.promises.forecast import Job

PATIENCE_S = 0.6  # no pass is begun after so long
ROUNDS = 4
ROWS = (8, 16, 32, 64, 128, 256, 512)  # of passes whose time is measured
SURE = 64  # rows: passes up to here are measured, however long they take
FAR = 1024  # tokens: the context at which attention is measured
CHOSEN = 4  # tokens whose choice is measured
STEP_S = 200e-6  # of Python around a pass, until real passes show it


def shape_of(chunk: Chunk) -> StepShape:
    """Return the shape of a pass over rows that see each other."""
    return StepShape(len(chunk.tokens), chunk.n_logits, sum(chunk.views))


@dataclass(frozen=True, slots=True)
class Passes:
    """Equal passes that follow each other."""

    count: int
    rows: int
    logits: int
    attended: float


class MaskedCost(CostModel):
    """Times of passes over texts of one model; ``most_rows`` are those of the largest pass."""

    def __init__(self, rates: CostRates, masked: MaskedConfig, most_rows: int) -> None:
        super().__init__(rates)
        self.block, self._most_rows = masked.block, most_rows

    def token_s(self, count: int, rows: int, attended: float, adapted: int = 0) -> float:
        """Predict the time of a token of each of ``count`` answers at worst: they take turns, a pass for each token."""
        view = attended / max(rows, 1)
        block = self.block or BLOCK
        seen = block if self.block else int(view) + block
        once_more = self._pass_s(2 * seen, block, view) if self.block else 0.0  # the first pass of each block
        return count * (self._pass_s(seen, block, view) * (block - bool(self.block)) + once_more) / block

    def _pass_s(self, rows: int, logits: int, view: float) -> float:
        return self.seconds(rows, logits, rows * (view + rows / 2))

    def note_tokens(self, tokens: int) -> None:
        """Count the tokens that stayed after a pass."""
        self.tokens += tokens
        self.gain.add(1, False, 1, 1.0, tokens)

    @property
    def tokens_a_pass(self) -> float:
        """Return the tokens that a pass has brought so far; at least one."""
        return self.gain.tokens(1, False)

    def observe_pass(self, shape: StepShape, took_s: float, pass_s: float, is_first: bool) -> None:
        """Learn from a real pass; the first one of a text reads its prompt."""
        self.observe(shape, took_s, pass_s, Answered(1, 0, prompt_rows=shape.rows if is_first else 0))

    def probe(self, shape: StepShape, took_s: float) -> None:
        """Learn the pace from a pass that was run to see how fast the machine is."""
        ratio = min(max(self.slowness(shape, took_s), 1 / WILD), WILD)
        self.pace *= ratio**PROBE_WEIGHT
        self._steady = self.pace

    def passes_s(self, passes: Passes) -> float:
        """Predict the time of some passes."""
        return passes.count * self.seconds(passes.rows, passes.logits, passes.attended)

    def first_and_rest_s(self, job: Job, tokens_a_pass: float) -> tuple[float, float]:
        """Predict the seconds up to the first token, and from there to the last one.

        The first token is certain to be there only when its block has no mask. ``tokens_a_pass``: 1 at worst.
        """
        first_s = None
        total_s = 0.0
        for is_end, passes in self.passes_of(job, tokens_a_pass):
            total_s += self.passes_s(passes)
            if is_end and first_s is None:
                first_s = total_s
        first_s = total_s if first_s is None else first_s
        return first_s, total_s - first_s

    def next_s(self, job: Job) -> float:
        """Predict the seconds of the next step of a text: all passes over its prompt, or one over its block."""
        seconds = 0.0
        for _, passes in self.passes_of(job, 1.0):
            seconds += self.passes_s(Passes(1, passes.rows, passes.logits, passes.attended))
            if passes.logits:
                break
        return seconds

    def passes_of(self, job: Job, tokens_a_pass: float) -> Iterator[tuple[bool, Passes]]:
        """Yield the passes of a text, and whether they leave no mask in their block.

        Of a job, `Job.prompt_left` and `Job.length` are positions without masks, those not computed yet and the others.
        """
        return self._in_blocks(job, tokens_a_pass) if self.block else self._whole(job, tokens_a_pass)

    def _whole(self, job: Job, tokens_a_pass: float) -> Iterator[tuple[bool, Passes]]:
        rows = job.prompt_left + job.length + job.answer_left
        left = job.answer_left
        while left > 0:
            masks = min(left, BLOCK)
            left -= masks
            yield True, Passes(math.ceil(masks / tokens_a_pass), rows, masks, float(rows) * rows)

    def _in_blocks(self, job: Job, tokens_a_pass: float) -> Iterator[tuple[bool, Passes]]:
        at = job.prompt_left + job.length
        stop, block, is_first = at + job.answer_left, self.block, job.prompt_left > 0
        while at < stop:
            begin = at // block * block
            end = min(begin + block, stop)
            start = job.length // block * block if is_first else max(begin - block, 0) if at == begin else begin
            for upto in range(start + self._step, begin, self._step):
                yield False, Passes(1, upto - start, 0, _attended(start, upto, block))
                start = upto
            count = math.ceil((end - at) / tokens_a_pass)
            more = count - 1
            yield not more, Passes(1, end - start, end - at, _attended(start, end, block))
            if more:
                yield True, Passes(more, end - begin, end - at, float(end - begin) * end)
            at, is_first = end, False

    @property
    def _step(self) -> int:
        """Return the rows of a pass over a long prompt: whole blocks."""
        return max(self._most_rows // self.block * self.block, self.block)


def _attended(start: int, end: int, block: int) -> float:
    """Return the keys that rows ``start .. end - 1`` look at, from the beginning of a block on."""
    whole = (end - start) // block
    last = end - start - whole * block  # rows of a block that is not whole
    return block * (whole * start + block * whole * (whole + 1) / 2) + last * end


def calibrate_masked(
    backend: Backend, masked: MaskedConfig, clock: Callable[[], float] = time.perf_counter
) -> CostRates:
    """Time passes by rows, by rows with logits and by what they look at, over pages that no text uses."""
    return _PassProbe(backend, masked, clock).run()


def probe_pass(backend: Backend, masked: MaskedConfig, rows: int, start: int = 0, n_logits: int = 1) -> Chunk:
    """Return rows of no text that see each other, at positions ``start, start + 1, ...`` of the spare pages."""
    limits = backend.limits
    tokens = tuple(i % limits.vocab_size for i in range(rows))
    pages = tuple(limits.spare_pages[: pages_for(start + rows)])
    return Chunk(0, start, tokens, pages, n_logits, kind=RowKind.ENCODE, block=masked.block)


class _PassProbe:
    def __init__(self, backend: Backend, masked: MaskedConfig, clock: Callable[[], float]) -> None:
        self._backend, self._masked, self._clock = backend, masked, clock
        limits = backend.limits
        self._most = min(limits.rows, limits.context)
        self._end_s = clock() + PATIENCE_S
        self._best: dict[tuple[int, int, int], float] = {}  # seconds by rows, start and rows with logits

    def run(self) -> CostRates:
        """Measure every shape in rounds, and turn times into rates."""
        limits = self._backend.limits
        block = min(self._masked.block or BLOCK, self._most, limits.logits_rows)
        far = max(min(FAR, limits.context) - block, 0) // block * block
        rows = sorted({each for each in (*ROWS, block, 2 * block) if each <= self._most})
        plain, chosen, looking = (block, 0, 1), (block, 0, block), (block, far, 1)
        self._time(plain)  # the first pass touches memory that none has yet
        self._best.clear()
        shapes = [plain, chosen, looking, *((count, 0, 1) for count in rows if count != block)]
        for turn in range(ROUNDS):
            for shape in shapes:
                if self._clock() <= self._end_s or (not turn and shape[0] <= SURE):
                    self._time(shape)
        best = self._best
        logits_s = max(best[chosen] - best[plain], 0.0) / max(block - 1, 1)
        attend_s = max(best[looking] - best[plain], 0.0) / (block * far) if far else 0.0
        curve = []
        for (count, start, wanted), took_s in sorted(best.items()):
            if start or wanted > 1:
                continue
            looked_s = attend_s * shape_of(probe_pass(self._backend, self._masked, count)).attended
            curve.append((count, max(took_s - logits_s - looked_s, took_s / 2) + STEP_S))
        if len(curve) == 1:  # room for one size alone: the curve needs two ends
            curve.append((curve[0][0] + 1, 2 * curve[0][1]))
        return CostRates(curve, logits_s + self._choosing_s(), attend_s)

    def _time(self, shape: tuple[int, int, int]) -> None:
        rows, start, n_logits = shape
        plan = Plan((probe_pass(self._backend, self._masked, rows, start, n_logits),))
        start_s = self._clock()
        self._backend.run(plan)
        took_s = self._clock() - start_s
        self._best[shape] = min(took_s, self._best.get(shape, took_s))

    def _choosing_s(self) -> float:
        """Measure the seconds in which a token is proposed from its logits."""
        vocab = self._backend.limits.vocab_size
        logits = np.tile(np.linspace(-1, 1, vocab, dtype=np.float32), (CHOSEN, 1))
        start_s = self._clock()
        propose(logits, range(CHOSEN), self._masked.mask_id, DecodeOptions(), self._backend.sampling)
        return (self._clock() - start_s) / CHOSEN
