"""How often guesses come true, learned from every token that is answered.

Owns counts by source, temperature and evidence; knows nothing of tokens or passes. Every guess is
judged by what came, proposed or not, so learning costs no passes. Invariant: estimates lie strictly
between 0 and 1. They decide what is tried, never what is answered.
"""

from __future__ import annotations

from collections.abc import Sequence

from miaotui.speculation.drafters.protocol import Guess

BOUNDS = (1, 2, 3, 4, 5, 6, 8, 11, 15, 23, 31, 47)  # the last evidence of each class but one
CLASSES = len(BOUNDS) + 1
MOST_EVIDENCE = 128  # a guess's length and tokens together stay below
HEATS = (0.0, 0.4, 0.8, 1.1)  # the last temperature of each class but one
MEMORY = 400.0  # observations of a kind; older ones fade
PRIOR_WEIGHT = 12.0  # observations that a prior counts for
OWN_WEIGHT = 5.0  # the same for what holds in general, against one request's own record
OWN_MEMORY = 40.0
LEAST, MOST = 0.005, 0.995

# How the places where the same happened before agree on what came next; and, last, tokens of a guess
# after its first, whose evidence includes that the ones before them held.
ALONE, UNANIMOUS, MOSTLY, HALF, RARELY, DEEPER = range(6)
KINDS = 6 * CLASSES

# Shares of guesses that came true, of a small model answering everyday questions: where an engine
# starts from. Rows by agreement, columns by class of evidence; greedy answers, then temperature 1.
_COLD = (
    (0.31, 0.64, 0.76, 0.80, 0.83, 0.82, 0.83, 0.88, 0.90, 0.92, 0.94, 0.95, 0.98),
    (0.64, 0.84, 0.89, 0.93, 0.94, 0.95, 0.96, 0.97, 0.98, 0.98, 0.98, 0.99, 0.99),
    (0.44, 0.70, 0.76, 0.80, 0.84, 0.86, 0.90, 0.91, 0.92, 0.85, 0.90, 0.91, 0.91),
    (0.17, 0.50, 0.59, 0.62, 0.68, 0.73, 0.75, 0.82, 0.84, 0.56, 0.62, 0.65, 0.82),
    (0.13, 0.36, 0.48, 0.53, 0.60, 0.64, 0.70, 0.72, 0.80, 0.50, 0.60, 0.68, 0.77),
    (0.50, 0.58, 0.66, 0.71, 0.77, 0.78, 0.83, 0.86, 0.89, 0.91, 0.94, 0.95, 0.98),
)
_HOT = (
    (0.16, 0.38, 0.54, 0.58, 0.60, 0.62, 0.64, 0.74, 0.86, 0.88, 0.90, 0.90, 0.94),
    (0.47, 0.73, 0.84, 0.86, 0.86, 0.88, 0.90, 0.94, 0.95, 0.95, 0.95, 0.95, 0.95),
    (0.34, 0.55, 0.63, 0.65, 0.70, 0.76, 0.81, 0.87, 0.90, 0.88, 0.88, 0.88, 0.88),
    (0.10, 0.27, 0.42, 0.46, 0.46, 0.50, 0.62, 0.65, 0.71, 0.60, 0.60, 0.65, 0.70),
    (0.06, 0.17, 0.27, 0.36, 0.41, 0.42, 0.51, 0.64, 0.75, 0.50, 0.50, 0.50, 0.50),
    (0.30, 0.35, 0.46, 0.53, 0.55, 0.58, 0.67, 0.76, 0.86, 0.88, 0.90, 0.90, 0.95),
)
# The same for a draft head, whose evidence is how far a token leads: first tokens, then deeper ones.
_HEAD_COLD = (
    (0.21, 0.26, 0.31, 0.33, 0.38, 0.38, 0.50, 0.60, 0.69, 0.84, 0.93, 0.98, 0.99),
    (0.17, 0.23, 0.27, 0.29, 0.35, 0.38, 0.41, 0.52, 0.64, 0.84, 0.95, 0.98, 0.99),
)
_HEAD_HOT = (
    (0.21, 0.26, 0.27, 0.29, 0.34, 0.37, 0.40, 0.50, 0.58, 0.77, 0.85, 0.92, 0.98),
    (0.20, 0.22, 0.24, 0.30, 0.30, 0.32, 0.42, 0.46, 0.60, 0.72, 0.87, 0.92, 0.97),
)
_MIXTURE = (0.0, 0.25, 0.6, 1.0, 1.3)  # how hot each class of temperature is

_CLASS_OF = [
    next((i for i, bound in enumerate(BOUNDS) if evidence <= bound), CLASSES - 1) for evidence in range(MOST_EVIDENCE)
]
_KIND_OF = [[agreement * CLASSES + each for each in _CLASS_OF] for agreement in range(6)]


_Table = Sequence[Sequence[float]]


def kinds_of(guess: Guess) -> list[int]:
    """The kind of evidence for each token of a guess, and perhaps for more."""
    _, length, tokens, places, rivals, _, kinds = guess
    if kinds:
        return list(kinds)
    if not rivals:
        agreement = UNANIMOUS if places > 1 else ALONE
    elif places > rivals:
        agreement = MOSTLY
    else:
        agreement = HALF if places == rivals else RARELY
    length = min(length, MOST_EVIDENCE - 1)
    deeper = _KIND_OF[DEEPER]
    kinds = [_KIND_OF[agreement][length], *deeper[length + 1 : length + len(tokens)]]
    return kinds if len(kinds) >= len(tokens) else kinds + deeper[-1:] * len(tokens)


def class_of(evidence: int) -> int:
    """The class of some evidence."""
    return _CLASS_OF[min(evidence, MOST_EVIDENCE - 1)]


def head_kind(depth: int, evidence: int) -> int:
    """The kind of a draft head's token, the first at depth 0."""
    return _KIND_OF[DEEPER if depth else ALONE][min(evidence, MOST_EVIDENCE - 1)]


def copied_kinds(guess: Guess) -> list[int]:
    """The kinds of tokens that follow a head's, as a ``guess`` from elsewhere continues them.

    A head's rates have rows of their own for these: how well the head is founded says nothing here.
    """
    first = min(guess.length, MOST_EVIDENCE - 1)
    last = min(first + len(guess.tokens), MOST_EVIDENCE)
    return [_KIND_OF[HALF if guess.rivals else UNANIMOUS][first], *_KIND_OF[MOSTLY][first + 1 : last]]


def heat_of(temperature: float) -> int:
    """The class of a temperature."""
    return next((i for i, bound in enumerate(HEATS) if temperature <= bound), len(HEATS))


def _prior(heat: int, of_head: bool) -> list[float]:
    rows = _mixed(_COLD, _HOT, _MIXTURE[heat])
    if of_head:
        first, deeper = _mixed(_HEAD_COLD, _HEAD_HOT, _MIXTURE[heat])
        copied, doubtful, later = rows[ALONE], rows[HALF], rows[DEEPER]
        rows = [first, copied, later, doubtful, doubtful, deeper]
    return [rate for row in rows for rate in row]


def _mixed(colds: _Table, hots: _Table, share: float) -> list[list[float]]:
    return [
        [min(max(cold + share * (hot - cold), LEAST), MOST) for cold, hot in zip(*row, strict=True)]
        for row in zip(colds, hots, strict=True)
    ]


class AcceptanceRates:
    """How often guesses of one source hold at one temperature, by kind of evidence."""

    def __init__(self, heat: int, of_head: bool = False) -> None:
        self.rates = _prior(heat, of_head)
        self._seen = [PRIOR_WEIGHT] * KINDS
        self._held = [PRIOR_WEIGHT * rate for rate in self.rates]

    def note(self, kind: int, held: bool) -> None:
        """A guessed token of this kind came true, or did not."""
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


def with_odds(rate: float, odds: float) -> float:
    """A probability, its odds multiplied by ``odds``."""
    return rate * odds / (1.0 - rate + rate * odds)


def survivals(rates: Sequence[float], odds: float, kinds: Sequence[int], most: int) -> list[float]:
    """The probability that all of the first 1, 2, ... ``most`` guessed tokens hold.

    Ends early where it is not worth mentioning.
    """
    result, product = [], 1.0
    for kind in kinds[:most]:
        rate = rates[kind]
        product *= with_odds(rate, odds)
        if product < 0.02:
            break
        result.append(product)
    return result
