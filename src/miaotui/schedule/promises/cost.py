"""The time of a step in seconds, predicted from its shape, and what drafts gain.

Owns the model of time: a curve over rows, a cost for each row of logits, for each key that a row attends to and for
each row with a low-rank adapter, a pace, which says how fast the machine is now, and the gain of drafts. Knows
neither clocks nor requests nor drafts: times come in with `CostModel.observe`. Measured by `engine.calibrate` at the
start; corrected by every real step since. Invariants: more work never costs less; without drafts, and before any have
been seen, their gain is nothing. The first passes with drafts count little beside that, later ones fade with time.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from miaotui.schedule.plan import Chunk
from miaotui.schedule.promises.forecast import CROWDED, ForecastErrors

COUNTS = (1, 2, 4, 8, 1 << 30)  # answers together: up to so many share statistics
PRIOR_PASSES = 4.0  # that count as passes without drafts
KEPT_PASSES = 400.0  # older ones fade
LEAST_SHARE = 0.1  # of the plain time: no draft gains more
PACE_S = 0.25  # of steps: most of a change in speed is seen within as much
MOST_PACE_WEIGHT = 0.35  # of one step, however long
DRAFTED_WEIGHT = 0.3  # of a step in the pace, where the rows of its passes are not known
STEADY_S = 4.0  # of steps, in the pace that outlasts a jolt
PROBE_WEIGHT = 0.7  # of the least disturbed of some passes made to see how fast the machine runs
SMALL_PROBE = 4  # rows
CORRECTED, KNOT_WEIGHT = 4, 0.4  # every so many steps the curve itself moves, so much slower than the pace
RESERVE_S = 0.003  # beyond the margin: starting and ending take time as well
WILD = 2.0  # a step this many times slower or faster than predicted counts as just so much


@dataclass(slots=True)
class _Sums:
    """Faded sums over passes: their number, their cost in plain passes, the tokens of an answer."""

    passes: float = PRIOR_PASSES
    cost: float = PRIOR_PASSES
    tokens: float = PRIOR_PASSES

    def add(self, passes: float, cost: float, tokens: float) -> None:
        """Count some passes."""
        fade = max(1.0 - passes / KEPT_PASSES, 0.0)
        self.passes = self.passes * fade + passes
        self.cost = self.cost * fade + cost
        self.tokens = self.tokens * fade + tokens


def _kinds() -> list[_Sums]:
    return [_Sums() for _ in COUNTS]


@dataclass(slots=True)
class DraftGain:
    """Costs and gains of drafts; one thread adds, any may ask."""

    _alone: list[_Sums] = field(default_factory=_kinds)  # passes of answers only
    _beside: list[_Sums] = field(default_factory=_kinds)  # passes that read prompts as well

    def add(self, count: int, reading: bool, passes: int, cost: float, tokens: float) -> None:
        """Count ``passes`` over ``count`` answers.

        ``cost`` is what they took, in passes without drafts; ``tokens`` is what each answer got, on average.
        """
        self._sums(count, reading).add(passes, min(max(cost, 0.5 * passes), 8.0 * passes), tokens)

    def share(self, count: int) -> float:
        """Return the time of a token, over that of a pass without drafts, while ``count`` answers go on alone."""
        sums = self._sums(count, False)
        return max(sums.cost / sums.tokens, LEAST_SHARE)

    def pass_cost(self, count: int, reading: bool) -> float:
        """Return the time of a pass over that of one without drafts."""
        sums = self._sums(count, reading)
        return sums.cost / sums.passes

    def tokens(self, count: int, reading: bool) -> float:
        """Return the tokens that a pass brings each of ``count`` answers; at least one."""
        sums = self._sums(count, reading)
        return max(sums.tokens / sums.passes, 1.0)

    def _sums(self, count: int, reading: bool) -> _Sums:
        kinds = self._beside if reading else self._alone
        for sums, most in zip(kinds, COUNTS, strict=True):
            if count <= most:
                return sums
        return kinds[-1]


@dataclass(frozen=True, slots=True)
class StepShape:
    """The parts of a step that take time."""

    rows: int
    logits: int  # rows of them that need logits
    attended: int  # keys looked at: the sum over rows of what each one sees
    adapted: int = 0  # rows that go through a low-rank adapter

    @staticmethod
    def of(chunks: Iterable[Chunk]) -> StepShape:
        """Return the shape of a planned step."""
        rows = logits = attended = adapted = 0
        for _, start, tokens, _, n_logits, _, n_scored, _, adapter, *_ in chunks:
            count = len(tokens)
            adapted += count if adapter else 0
            rows += count
            logits += n_logits + n_scored
            attended += count * start + count * (count + 1) // 2
        return StepShape(rows, logits, attended, adapted)


@dataclass(frozen=True, slots=True)
class CostRates:
    """The result of calibration, in seconds."""

    curve: Sequence[tuple[int, float]]  # (rows, seconds without logits), rows ascending
    logits_s: float  # of one row of logits, chosen from
    attend_s: float  # of one row looking at one key


@dataclass(frozen=True, slots=True)
class StepTime:
    """The foreseen and the real time of a step."""

    rows: int
    predicted_s: float
    took_s: float


@dataclass(frozen=True, slots=True)
class Answered:
    """The tokens that a step brought the answers which went on in it."""

    count: int  # answers
    tokens: int  # of all of them
    passes: int = 1  # that followed each other in the step
    drafted: bool = False  # the backend drafted within it: the rows of its passes are not known
    prompt_rows: int = 0  # rows beside those of the answers


_NO_ANSWER = Answered(0, 0)


class CostModel:
    """Prediction of times; any thread may ask, one thread observes.

    A promise allows for `allowed_s` of the time foreseen. Between two knots of the curve lies a straight line; beyond
    the last one it goes on.
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
        self.adapter_s = 0.0  # of one row's adapter, beside the model's own products (see `price_adapter`)
        self._most_logits_s, self._most_attend_s = 4 * self.logits_s, 4 * self.attend_s
        self.pace = 1.0  # how many times slower than calibrated the machine is now
        self.errors = ForecastErrors()
        self.gain = DraftGain()
        self._observed = 0  # steps
        self._steady = 1.0  # the pace over some seconds
        self.busy_s = 0.0  # in steps, since the start
        self.pass_s = 0.0  # of that in arithmetic: passes, and choosing tokens
        self.passes = 0  # in those steps
        self.tokens = 0  # that they brought answers which went on
        self.recent: deque[StepTime] = deque(maxlen=256)

    def seconds(self, rows: int, logits: int, attended: float, adapted: int = 0) -> float:
        """Predict the time of a step of this shape at the present pace."""
        work = self._curve(rows) + self.logits_s * logits + self.attend_s * attended + self.adapter_s * adapted
        return work * self.pace

    def price_adapter(self, row_s: float) -> None:
        """Let rows with adapters take at least ``row_s`` more than others, as was measured at the present pace."""
        self.adapter_s = max(self.adapter_s, row_s / self.pace)

    def token_s(self, count: int, rows: int, attended: float, adapted: int = 0) -> float:
        """Predict the time of a token of each of ``count`` answers in passes of ``rows``, drafted tokens counted."""
        return self.seconds(rows, rows, attended, adapted) * self.gain.share(count)

    def allowed_s(self, reading_s: float, answering_s: float = 0.0, deviations: float = CROWDED) -> float:
        """Return the time to allow for, given those foreseen up to the first token and from there to the last."""
        return self.errors.allowed_s(reading_s, answering_s, deviations) + RESERVE_S

    @property
    def margin(self) -> float:
        """Return the allowance, as a factor, of a promise of half a second to the first token and as much after it."""
        return self.errors.allowed_s(0.5, 0.5)

    def affordable_rows(self, seconds: float, logits: int, attended: float, most: int) -> int:
        """Find the most rows, up to ``most``, of a step that takes at most ``seconds``; at least 0."""
        low, high = 0, most
        while low < high:
            rows = (low + high + 1) // 2
            if self.seconds(rows, logits, attended) <= seconds:
                low = rows
            else:
                high = rows - 1
        return low

    def observe(self, shape: StepShape, took_s: float, pass_s: float = 0.0, answered: Answered = _NO_ANSWER) -> None:
        """Learn from a real step of one or more passes of ``shape``; ``pass_s`` of it was arithmetic."""
        self.busy_s += took_s
        self.pass_s += pass_s
        self.passes += answered.passes
        self.tokens += answered.tokens
        predicted = self._predicted(shape, answered)
        self.recent.append(StepTime(shape.rows, predicted / answered.passes, took_s / answered.passes))
        self.errors.add(
            answered.prompt_rows > 0 or not answered.count,
            self._foreseen(shape, answered, predicted),
            took_s,
            self.pace,
        )
        ratio = min(max(took_s / predicted, 1 / WILD), WILD)
        if answered.tokens:
            self._learn_gain(shape, took_s if answered.drafted else predicted, answered)
        weight = min(predicted / (predicted + PACE_S), MOST_PACE_WEIGHT)
        weight *= DRAFTED_WEIGHT if answered.drafted else 1.0
        self.pace *= ratio**weight
        self._steady += predicted / (predicted + STEADY_S) * (self.pace - self._steady)
        self._observed += 1
        if self._observed % CORRECTED == 0 and not answered.drafted:
            self._correct(shape, CORRECTED * KNOT_WEIGHT * weight * (ratio - 1))

    def _predicted(self, shape: StepShape, answered: Answered) -> float:
        """Return the time of a step whose passes are known; where the backend drafted within it, of so many passes."""
        pass_s = self.seconds(shape.rows, shape.logits, shape.attended, shape.adapted)
        if answered.drafted:
            pass_s *= self.gain.pass_cost(answered.count, False)
        return pass_s * answered.passes

    def _foreseen(self, shape: StepShape, answered: Answered, predicted: float) -> float:
        """Return the time that a forecast would have given to what the step brought."""
        if not answered.tokens:
            return predicted
        count = answered.count
        if answered.prompt_rows:
            return self._plain_s(shape, answered) * self.gain.pass_cost(count, True)
        attended = shape.attended * count / shape.rows
        return self.token_s(count, count, attended, min(shape.adapted, count)) * answered.tokens / count

    def _plain_s(self, shape: StepShape, answered: Answered) -> float:
        """Return the time of a pass of this shape without the rows of drafts."""
        rows = answered.count + answered.prompt_rows
        logits = shape.logits - (shape.rows - rows)
        return self.seconds(rows, logits, shape.attended * rows / shape.rows, min(shape.adapted, rows))

    def _learn_gain(self, shape: StepShape, took_s: float, answered: Answered) -> None:
        """Compare passes with drafts to passes without."""
        count, reading = answered.count, answered.prompt_rows > 0
        cost = took_s / self._plain_s(shape, answered)
        self.gain.add(count, reading, answered.passes, cost, answered.tokens / count)

    def slowness(self, shape: StepShape, took_s: float) -> float:
        """Return the time of a pass over the time that was predicted for its shape."""
        return took_s / self.seconds(shape.rows, shape.logits, shape.attended, shape.adapted)

    def probe(self, shape: StepShape, took_s: float) -> None:
        """Learn from a pass that was run to see how fast the machine is; it counts for much.

        Small ones change the pace, larger ones their own place on the curve.
        """
        ratio = min(max(self.slowness(shape, took_s), 1 / WILD), WILD)
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
        """Return the factor of forecasts if the cause of a momentary slowdown is soon over; at most 1."""
        return min(1.0, self._steady / self.pace)

    @property
    def knots(self) -> Sequence[int]:
        """Return the numbers of rows between which the curve is linear."""
        return self._rows

    def _curve(self, rows: int) -> float:
        numbers, knots = self._rows, self._knots
        right = min(bisect_right(numbers, rows), len(numbers) - 1)
        if right == 0:
            return knots[0]
        left = right - 1
        share = (rows - numbers[left]) / (numbers[right] - numbers[left])
        return knots[left] + share * (knots[right] - knots[left])

    def _correct(self, shape: StepShape, surprise: float) -> None:
        """Move each part of the model by its share of what the pace does not explain in the long run."""
        base, logits = self._curve(shape.rows), self.logits_s * shape.logits
        looking = self.attend_s * shape.attended
        off = surprise / (base + logits + looking)
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
