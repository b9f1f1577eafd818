"""The distribution over options that a language model gives, read from its logits token by token.

Owns the tree of the options' tokens. Knows neither prompts nor questions. Invariant: an option's log-probability is
that with which sampling under a grammar of all options would write it: at each place the logits of the tokens that may
follow are made to sum to one. Where first tokens differ, one place is all there is to read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Tokens = tuple[int, ...]


@dataclass
class OptionTrie:
    """Options as token ids; ``end`` is the token that ends an answer, for an option that begins another one."""

    options: Sequence[Tokens]
    end: int
    _branches: dict[Tokens, list[int]] = field(init=False)

    def __post_init__(self) -> None:
        nexts: dict[Tokens, set[int]] = {}
        for option in self.options:
            for place, token in enumerate([*option, self.end]):
                nexts.setdefault(option[:place], set()).add(token)
        self._branches = {prefix: sorted(tokens) for prefix, tokens in nexts.items() if len(tokens) > 1}

    @property
    def branches(self) -> Mapping[Tokens, Sequence[int]]:
        """Return, for each beginning of an option that may go on in several ways, the tokens that may follow."""
        return self._branches

    def log_probabilities(self, found: Mapping[Tokens, Sequence[float]]) -> list[float]:
        """Return each option's log-probability (nats) from those of the tokens at all `branches`, in their order."""
        steps: dict[Tokens, dict[int, float]] = {}
        for prefix, tokens in self._branches.items():
            total = log_sum(found[prefix])
            steps[prefix] = {token: each - total for token, each in zip(tokens, found[prefix], strict=True)}
        return [
            math.fsum(
                steps[option[:place]][token]
                for place, token in enumerate([*option, self.end])
                if option[:place] in steps
            )
            for option in self.options
        ]

    def mass(self, found: Mapping[Tokens, Sequence[float]]) -> float:
        """Return the probability that the model begins any of the options at all."""
        first = found.get(())
        return 1.0 if first is None else min(math.exp(log_sum(first)), 1.0)


def log_sum(values: Sequence[float]) -> float:
    """Return the logarithm of the sum of exponentials."""
    top = max(values)
    return top if top == -math.inf else top + math.log(math.fsum(math.exp(each - top) for each in values))
