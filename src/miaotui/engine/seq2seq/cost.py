"""Times of an encoder-decoder's passes: a cost model of sources' rows and one of targets' rows.

Owns the calibration and the time of a whole job. Knows no jobs' texts. Invariant: a calibration leaves nothing behind
but numbers.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from miaotui.backends.seq2seq_backend import NO_PREFIX, Seq2SeqBackend, Source, TargetRow
from miaotui.engine.encoding.calibrate import PASS_BESIDE_S
from miaotui.engine.seq2seq.job import FIRST_RATIO, LengthRatio, TargetJob
from miaotui.engine.turns import CoreTurns, PlainSharer
from miaotui.schedule.promises.cost import CostModel, CostRates, StepShape

ROWS = (1, 4, 16, 64)
SOURCE_TOKENS = 32
PATIENCE_S = 0.5  # no pass is begun after so long, but for two of one row
ROUNDS = 3
ATTENTION = 1.5  # times as long for each row of a source of full length, and of its targets
SOUND_RATIO = 0.1  # target tokens of a row of sound, before any were seen


class TargetCost:
    """Cost models of both kinds of passes, and the ratio of lengths."""

    def __init__(self, sources: CostModel, targets: CostModel, first_ratio: float = FIRST_RATIO) -> None:
        self.sources, self.targets, self.lengths = sources, targets, LengthRatio(first_ratio)

    def work_s(self, job: TargetJob, most_rows: int) -> float:
        """Predict the seconds of what is left of a job, in passes of up to ``most_rows`` rows, by itself."""
        steps = rows = 0
        for request in job.open:
            steps = max(steps, self.lengths.steps_left(request))
            rows += request.settings.num_beams
        if not rows:
            return 0.0
        tokens = job.tokens_left
        encode_s = self.sources.seconds(tokens, 0, 0) if tokens else 0.0
        passes = -(-rows // most_rows)
        return encode_s + steps * passes * self.targets.seconds(min(rows, most_rows), 0, 0)

    def step_s(self, source_rows: int, target_rows: int) -> float:
        """Predict the seconds of a step."""
        encode_s = self.sources.seconds(source_rows, 0, 0) if source_rows else 0.0
        return encode_s + (self.targets.seconds(target_rows, 0, 0) if target_rows else 0.0)


def calibrate_targets(
    backend: Seq2SeqBackend, turns: CoreTurns, clock: Callable[[], float] = time.perf_counter, mel_bins: int = 0
) -> TargetCost:
    """Time passes over several numbers of sources' and targets' rows; all of it is one turn at the cores.

    ``mel_bins``: sources are sound. They are much longer than those timed here, so their times are estimated until the
    first ones are observed: a start need not wait for a whole window.
    """
    sharer = PlainSharer()
    turns.join(sharer)
    turns.enter(sharer)
    try:
        return _measured(backend, clock, mel_bins)
    finally:
        turns.done(sharer)
        turns.leave(sharer)


def _measured(backend: Seq2SeqBackend, clock: Callable[[], float], mel_bins: int) -> TargetCost:
    limits = backend.limits
    size = min(SOURCE_TOKENS, limits.source_tokens)
    source: Source = np.zeros((2 * size, mel_bins), np.float32) if mel_bins else [0] * size
    counts = [count for count in (1, 4) if count * size <= limits.source_rows and count <= limits.sources]
    sources: dict[int, float] = {}
    targets: dict[int, float] = {}
    end_s = clock() + PATIENCE_S
    for turn in range(ROUNDS):  # the first round touches memory and warms the caches
        for count in counts:
            if clock() > end_s and (turn > 1 or count > counts[0]):
                continue
            start_s = clock()
            numbers = backend.encode([source] * count)
            took_s = clock() - start_s
            sources[count * size] = min(took_s, sources.get(count * size, took_s) if turn > 1 else took_s)
            backend.release([], numbers[1:])
            for rows in [rows for rows in ROWS if rows <= min(limits.target_rows, backend.free_rows)]:
                if clock() > end_s and (turn > 1 or rows > 1):
                    continue
                outcome = backend.run([TargetRow(numbers[0], NO_PREFIX, 0)] * rows)
                backend.release(outcome.prefixes)
                best_s = targets.get(rows, outcome.seconds) if turn > 1 else outcome.seconds
                targets[rows] = min(outcome.seconds, best_s)
            backend.release([], numbers[:1])
    longest = limits.source_tokens
    if mel_bins and longest > size:
        sources = {size: sources[size], longest: ATTENTION * sources[size] * longest / size}
        targets = {rows: ATTENTION * seconds for rows, seconds in targets.items()}
    return TargetCost(_model(sources), _model(targets), SOUND_RATIO if mel_bins else FIRST_RATIO)


def _model(best: dict[int, float]) -> CostModel:
    """Return the model of a curve, which needs two ends."""
    curve = [(rows, took_s + PASS_BESIDE_S) for rows, took_s in sorted(best.items())]
    if len(curve) == 1:
        curve.append((2 * curve[0][0], 2 * curve[0][1]))
    return CostModel(CostRates(curve, 0.0, 0.0))


def shape_of(rows: int) -> StepShape:
    """Return the shape of a pass of so many rows, for `CostModel.observe`."""
    return StepShape(rows, 0, 0)
