"""What a step costs in seconds, told from its shape, and how far such forecasts have been off.

Owns the model of time: a curve over rows, a price for each row of logits and for each token looked
at, and a pace that says how the machine runs now. It knows neither clocks nor requests: times come
in with `CostModel.observe`. Invariant: more work never costs less. Measured by
`engine.calibrate` at start; corrected by every real step since.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from miaotui.schedule.plan import Chunk

PACE_WEIGHT = 1 / 12  # of one step in the pace: most of a change is seen within a dozen steps
PROBE_WEIGHT = 0.4  # of a pass made to look how the machine runs
SMALL_PROBE = 4  # rows
CORRECTED, KNOT_WEIGHT = 4, 1 / 16  # every so many steps the curve itself moves, by that much
WINDOW_S = 0.25  # predicted time over which errors are judged: about the length of a promise
WINDOWS = 64  # judged windows that count
QUANTILE = 0.99
STEADY_WEIGHT = 1 / 100  # of one step in the pace that outlasts a jolt
FIRST_MARGIN, LEAST_MARGIN, MOST_MARGIN = 1.12, 1.05, 1.6
LEAST_RESERVE_S, MOST_RESERVE_S = 0.005, 0.06
RESERVE_FADES = 0.999  # with each step: a jolt is remembered for some seconds
WILD = 2.0  # a step this many times slower or faster than predicted counts as just so much


@dataclass(frozen=True, slots=True)
class StepShape:
    """What of a step takes time."""

    rows: int
    logits: int  # rows of them that need logits
    attended: int  # keys looked at: the sum over rows of what each one sees

    @staticmethod
    def of(chunks: Iterable[Chunk]) -> StepShape:
        """The shape of a planned step."""
        rows = logits = attended = 0
        for _, start, tokens, _, n_logits, _, n_scored, *_ in chunks:
            count = len(tokens)
            rows += count
            logits += n_logits + n_scored
            attended += count * start + count * (count + 1) // 2
        return StepShape(rows, logits, attended)


@dataclass(frozen=True, slots=True)
class CostRates:
    """What calibration found: seconds."""

    curve: Sequence[tuple[int, float]]  # (rows, seconds without logits), rows ascending
    logits_s: float  # of one row of logits, chosen from
    attend_s: float  # of one row looking at one key


@dataclass(frozen=True, slots=True)
class StepTime:
    """A step as it was foreseen and as it was."""

    rows: int
    predicted_s: float
    took_s: float


class CostModel:
    """Predicts steps; any thread may ask, one thread observes.

    A promise allows for ``margin`` times the time foreseen, and ``reserve_s`` more.

    Between two knots of the curve lies a straight line; beyond the last one it goes on.
    """

    def __init__(self, rates: CostRates) -> None:
        curve = sorted(rates.curve)
        self._rows = [rows for rows, _ in curve]
        self._base: list[float] = []
        for _, seconds in curve:  # noise must not make more rows cheaper
            self._base.append(max(seconds, self._base[-1] if self._base else 1e-7))
        self._factors = [1.0] * len(curve)
        self._knots = list(self._base)
        self.logits_s = max(rates.logits_s, 0.0)
        self.attend_s = max(rates.attend_s, 0.0)
        self._most_logits_s, self._most_attend_s = 4 * self.logits_s, 4 * self.attend_s
        self.pace = 1.0  # how many times slower than calibrated the machine is now
        self.margin = FIRST_MARGIN  # how many times longer a promise must allow for
        self.reserve_s = LEAST_RESERVE_S  # for single steps that are held up
        self._observed = 0  # steps
        self._steady = 1.0  # the pace over some hundred steps
        self.busy_s = 0.0  # in steps, since the start
        self.pass_s = 0.0  # of that in arithmetic: passes, and choosing tokens
        self.recent: deque[StepTime] = deque(maxlen=256)
        self._windows: deque[float] = deque(maxlen=WINDOWS)
        self._window = _Window(1.0)

    def seconds(self, rows: int, logits: int, attended: float) -> float:
        """The time of a step of this shape, as the machine runs now."""
        work = self._curve(rows) + self.logits_s * logits + self.attend_s * attended
        return work * self.pace

    def affordable_rows(self, seconds: float, logits: int, attended: float, most: int) -> int:
        """The most rows, up to ``most``, of a step that takes at most ``seconds``; at least 0."""
        low, high = 0, most
        while low < high:
            rows = (low + high + 1) // 2
            if self.seconds(rows, logits, attended) <= seconds:
                low = rows
            else:
                high = rows - 1
        return low

    def observe(self, shape: StepShape, took_s: float, pass_s: float = 0.0) -> None:
        """Learn from a real step; ``pass_s`` of it was arithmetic."""
        self.busy_s += took_s
        self.pass_s += pass_s
        predicted = self.seconds(shape.rows, shape.logits, shape.attended)
        self.recent.append(StepTime(shape.rows, predicted, took_s))
        self._judge(predicted, took_s)
        held_up = min(took_s - predicted, MOST_RESERVE_S)
        self.reserve_s = max(held_up, self.reserve_s * RESERVE_FADES, LEAST_RESERVE_S)
        ratio = min(max(took_s / predicted, 1 / WILD), WILD)
        self.pace *= 1 + PACE_WEIGHT * (ratio - 1)
        self._steady += STEADY_WEIGHT * (self.pace - self._steady)
        self._observed += 1
        if self._observed % CORRECTED == 0:
            self._correct(shape, ratio)

    def probe(self, shape: StepShape, took_s: float) -> None:
        """Learn how the machine runs now from a pass made for that alone: it counts for much.

        Small ones tell the pace, larger ones their own place on the curve.
        """
        ratio = took_s / self.seconds(shape.rows, shape.logits, shape.attended)
        if shape.rows <= SMALL_PROBE:
            self.pace *= ratio**PROBE_WEIGHT
            self._steady = self.pace
            return
        right = min(bisect_right(self._rows, shape.rows), len(self._rows) - 1)
        for knot in {max(0, right - 1), right}:
            self._factors[knot] = min(max(self._factors[knot] * ratio**0.5, 0.1), 4.0)
        self._draw_curve()

    @property
    def optimism(self) -> float:
        """What forecasts shrink to if what slows the machine this moment is soon over; at most 1."""
        return min(1.0, self._steady / self.pace)

    @property
    def knots(self) -> Sequence[int]:
        """The numbers of rows between which the curve is drawn."""
        return self._rows

    def _curve(self, rows: int) -> float:
        numbers, knots = self._rows, self._knots
        right = min(bisect_right(numbers, rows), len(numbers) - 1)
        if right == 0:
            return knots[0]
        left = right - 1
        share = (rows - numbers[left]) / (numbers[right] - numbers[left])
        return knots[left] + share * (knots[right] - knots[left])

    def _correct(self, shape: StepShape, ratio: float) -> None:
        """Move each part of the model by its share in what the pace does not explain in the end."""
        base, logits = self._curve(shape.rows), self.logits_s * shape.logits
        looking = self.attend_s * shape.attended
        off = KNOT_WEIGHT * (min(max(ratio, 0.5), 2.0) - 1) / (base + logits + looking)
        self.logits_s = min(self.logits_s * (1 + off * logits), self._most_logits_s)
        self.attend_s = min(self.attend_s * (1 + off * looking), self._most_attend_s)
        numbers = self._rows
        right = min(bisect_right(numbers, shape.rows), len(numbers) - 1)
        step = 1 + off * base
        for knot in {max(0, right - 1), right}:
            self._factors[knot] = min(max(self._factors[knot] * step, 0.4), 2.5)
        mean = sum(self._factors) / len(self._factors)  # what all have in common is the pace
        self._factors = [factor / mean for factor in self._factors]
        self.logits_s /= mean
        self.attend_s /= mean
        self.pace *= mean
        self._steady *= mean
        self._draw_curve()

    def _draw_curve(self) -> None:
        highest = 0.0
        for index, seconds in enumerate(self._base):
            highest = max(highest, seconds * self._factors[index])
            self._knots[index] = highest

    def _judge(self, predicted_s: float, took_s: float) -> None:
        """Compare a stretch of steps with what was foreseen at its beginning."""
        window = self._window
        window.foreseen_s += predicted_s * window.pace / self.pace
        window.took_s += took_s
        if window.foreseen_s < WINDOW_S:
            return
        self._windows.append(window.took_s / window.foreseen_s)
        self._window = _Window(self.pace)
        ratios = sorted(self._windows)
        # While few are judged, the first margin counts as the rest of them.
        missing = max(0, 16 - len(ratios))
        worst = ratios[min(int(QUANTILE * len(ratios)), len(ratios) - 1)]
        margin = (worst * (16 - missing) + FIRST_MARGIN * missing) / 16
        self.margin = min(max(margin, LEAST_MARGIN), MOST_MARGIN)


@dataclass(slots=True)
class _Window:
    """A stretch of steps, and the pace when it began."""

    pace: float
    foreseen_s: float = 0.0
    took_s: float = 0.0
