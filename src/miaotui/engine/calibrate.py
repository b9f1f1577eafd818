"""Measures what passes cost on this machine, in well under a second, before a server takes requests.

Owns the choice of passes. Knows nothing of requests: the passes run over pages that no sequence uses. Invariant:
nothing is left behind but numbers. They are the best of several rounds, so that what disturbs one pass does not count;
how fast the machine is at the moment shows in every real step (`schedule.promises.cost`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from miaotui.backends.backend import Backend, probe_chunk
from miaotui.engine.request import Request, RequestOptions
from miaotui.engine.sampling.sampler import SequenceSampler
from miaotui.schedule.plan import Plan
from miaotui.schedule.promises.cost import CostModel, CostRates
from miaotui.types import SamplingParams

PATIENCE_S = 0.6  # no pass is begun after so long
ANSWERS = (1, 2, 4, 8, 16)  # rows of passes over answers
PROMPTS = (32, 64, 128, 256)  # rows of passes over a prompt, the last ones only where there is time
SURE = 64  # rows: passes up to here are measured, however long they take
FAR = 1024  # tokens: the context at which attention is measured
STEP_S = 200e-6  # of Python around a pass, until real steps show it
MOST_ROUNDS = 4
WARM_TOKENS, WARM_S = 48, 0.25  # of the longest answer before callers come
WARM_NAMESPACE = -1  # no caller's: nothing of these answers is used again

Shape = tuple[int, bool, int]  # rows, whether each is an answer's, tokens before the first


def calibrate(backend: Backend, clock: Callable[[], float] = time.perf_counter) -> CostRates:
    """Time passes over answers of several requests, over prompts of several sizes and over a long context."""
    return _CostProbe(backend, clock).run()


class Submitter(Protocol):
    """Receiver of requests: an `EngineLoop`."""

    @property
    def cost(self) -> CostModel:
        """Return the times of passes."""
        ...

    def submit(self, prompt: Sequence[int], params: SamplingParams, options: RequestOptions = ...) -> Request:
        """See `EngineLoop.submit`."""
        ...

    def leave(self, request: Request) -> None:
        """See `EngineLoop.leave`."""


def warm_up(loop: Submitter, prompt: Sequence[int]) -> None:
    """Answer ``prompt`` a few times before callers do, within about half a second.

    So memory is touched, Python has specialised the code around a pass, and the first forecasts know the speed of
    real steps and what drafts bring. Greedy answers come last: their drafts are right more often.
    """
    token_s = loop.cost.token_s(1, 1, 0.0)
    tokens = max(4, min(WARM_TOKENS, int(WARM_S / token_s)))
    for temperature, count in ((1.0, tokens), (0.0, tokens // 4), (1.0, tokens // 2)):
        params = SamplingParams(max_tokens=max(count, 1), temperature=temperature, seed=count, ignore_eos=True)
        request = loop.submit(prompt, params, RequestOptions(namespace=WARM_NAMESPACE))
        while not request.is_over:
            time.sleep(1e-3)
        loop.leave(request)


class _CostProbe:
    def __init__(self, backend: Backend, clock: Callable[[], float]) -> None:
        self._backend, self._limits, self._clock = backend, backend.limits, clock
        self._most_rows = min(self._limits.rows, self._limits.context)
        self._most_logits = self._limits.logits_rows
        self._vocab = self._limits.vocab_size
        self._end_s = clock() + PATIENCE_S
        self._best: dict[Shape, float] = {}  # seconds

    def run(self) -> CostRates:
        """Measure every shape in rounds, and turn times into rates."""
        count = min(8, self._most_logits, self._most_rows)
        far = min(FAR, self._limits.context) - 1
        answers = [rows for rows in ANSWERS if rows <= min(self._most_rows, self._most_logits)]
        prompts = [rows for rows in PROMPTS if rows <= self._most_rows]
        self._backend.run(self._plan((1, True, 0)))  # the first pass touches memory that none has yet
        together, prompt, looking = (count, True, 0), (count, False, 0), (count, True, max(far, 0))
        shapes = [(rows, True, 0) for rows in answers]
        shapes += [together, prompt, looking, *((rows, False, 0) for rows in prompts)]
        self._measure(list(dict.fromkeys(shapes)))
        best = self._best
        logits_s = max(0.0, best[together] - best[prompt]) / (count - 1) if count > 1 else 0.0
        attend_s = max(0.0, best[looking] - best[together]) / (count * far) if far > 0 else 0.0
        curve = []
        for (rows, is_answer, before), took in sorted(best.items()):
            if before or (not is_answer and rows == count):
                continue
            wanted = rows if is_answer else 1
            seen = 0.0 if is_answer else rows * (rows + 1) / 16
            curve.append((rows, max(took - wanted * logits_s - attend_s * seen, took / 2) + STEP_S))
        if len(curve) == 1:  # room for a single row: the curve needs two ends
            curve.append((curve[0][0] + 1, 2 * curve[0][1]))
        return CostRates(curve, logits_s + self._choosing(), attend_s)

    def _measure(self, shapes: list[Shape]) -> None:
        """Take the best of some rounds over all shapes: a disturbance seldom lasts for all of them."""
        for turn in range(MOST_ROUNDS):
            for shape in shapes:
                rows, is_answer, _ = shape
                late = self._clock() > self._end_s
                if late and (turn or (not is_answer and rows > SURE)):
                    return
                plan, start = self._plan(shape), self._clock()
                self._backend.run(plan)
                took = self._clock() - start
                self._best[shape] = min(took, self._best.get(shape, took))

    def _plan(self, shape: Shape) -> Plan:
        rows, is_answer, before = shape
        tokens = [i % self._vocab for i in range(rows)]
        if is_answer:
            return Plan(tuple(probe_chunk(self._limits, (token,), before) for token in tokens))
        return Plan((probe_chunk(self._limits, tokens),))

    def _choosing(self) -> float:
        """Measure the seconds in which one token is chosen."""
        row = np.linspace(-1, 1, self._vocab, dtype=np.float32)
        sampler = SequenceSampler(SamplingParams(), (), (), self._vocab, self._backend.sampling)
        start = self._clock()
        for _ in range(4):
            sampler.pick(row, 0)
        return (self._clock() - start) / 4
