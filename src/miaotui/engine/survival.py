"""How often guesses come true, learned from every token that is answered.

Owns counts by source, temperature and evidence; knows nothing of tokens or passes. Every guess is
judged by what came, proposed or not, so learning costs no passes. Invariant: estimates lie strictly
between 0 and 1. They decide what is tried, never what is answered.
"""

from __future__ import annotations

from collections.abc import Sequence

BOUNDS = (1, 2, 3, 4, 5, 6, 8, 11, 15, 23, 31, 47)  # the last evidence of each class but one
CLASSES = len(BOUNDS) + 1
MOST_EVIDENCE = 128
HEATS = (0.0, 0.4, 0.8, 1.1)  # the last temperature of each class but one
MEMORY = 400.0  # observations of a class; older ones fade
PRIOR_WEIGHT = 12.0  # observations that a prior counts for
OWN_WEIGHT = 5.0  # the same for what holds in general, against one request's own record
OWN_MEMORY = 40.0
LEAST, MOST = 0.005, 0.995

# Shares of guesses that came true, of a small model answering everyday questions: where an engine
# starts from. Rows by temperature, columns by evidence.
_COLD = (0.23, 0.52, 0.64, 0.71, 0.77, 0.79, 0.83, 0.87, 0.91, 0.95, 0.97, 0.98, 0.99)
_HOT = (0.12, 0.30, 0.42, 0.50, 0.56, 0.60, 0.65, 0.72, 0.78, 0.84, 0.90, 0.93, 0.95)
_MIXTURE = (0.0, 0.25, 0.6, 1.0, 1.3)  # how hot each class of temperature is

CLASS_OF = tuple(
    next((i for i, bound in enumerate(BOUNDS) if evidence <= bound), CLASSES - 1)
    for evidence in range(MOST_EVIDENCE)
)


def heat_of(temperature: float) -> int:
    """The class of a temperature."""
    return next((i for i, bound in enumerate(HEATS) if temperature <= bound), len(HEATS))


def _prior(heat: int) -> list[float]:
    share = _MIXTURE[heat]
    pairs = zip(_COLD, _HOT, strict=True)
    return [min(max(cold + share * (hot - cold), LEAST), MOST) for cold, hot in pairs]


class Rates:
    """How often guesses of one source hold at one temperature, by class of evidence."""

    def __init__(self, heat: int) -> None:
        self.rates = _prior(heat)
        self._seen = [PRIOR_WEIGHT] * CLASSES
        self._held = [PRIOR_WEIGHT * rate for rate in self.rates]

    def note(self, kind: int, held: bool) -> None:
        """A guessed token of this class came true, or did not."""
        seen, total = self._seen[kind] + 1.0, self._held[kind] + held
        if seen > MEMORY:
            seen, total = seen / 2, total / 2
        self._seen[kind], self._held[kind] = seen, total
        self.rates[kind] = min(max(total / seen, LEAST), MOST)


class Record:
    """How one request's guesses fare against what holds in general."""

    __slots__ = ("_expected", "_held", "odds")

    def __init__(self) -> None:
        self._expected = self._held = 0.0
        self.odds = 1.0  # a factor on the odds of every guess

    def note(self, expected: float, held: bool) -> None:
        """A guessed token, held to be true with probability ``expected``, was or was not."""
        self._expected += expected
        self._held += held
        if self._expected > OWN_MEMORY:
            self._expected, self._held = self._expected / 2, self._held / 2
        self.odds = (self._held + OWN_WEIGHT) / (self._expected + OWN_WEIGHT)


def survivals(rates: Sequence[float], odds: float, evidence: int, most: int) -> list[float]:
    """The probability that all of the first 1, 2, ... ``most`` guessed tokens hold.

    Ends early where it is not worth mentioning.
    """
    result, product = [], 1.0
    for kind in CLASS_OF[evidence : evidence + most]:
        rate = rates[kind]
        product *= rate * odds / (1.0 - rate + rate * odds)
        if product < 0.02:
            break
        result.append(product)
    return result
