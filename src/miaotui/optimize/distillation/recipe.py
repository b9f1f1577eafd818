"""Recipe of a distillation: what is learned, how long, and by which weights.

Owns names and ranges. Knows no models. Invariant: a recipe that exists is within its ranges.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from miaotui.errors import RequestError
from miaotui.optimize.distillation.objectives import Objective, require_objective


@dataclass(frozen=True)
class DistilRecipe:
    """``tokens`` are learned from, each of ``passes`` times, in batches of ``batch`` texts of ``length`` tokens.

    ``on_policy`` is the share of texts that the student writes itself while it learns (GKD). ``rank`` 0 trains all
    weights, else low-rank pairs. Raises `RequestError` for values out of range.
    """

    tokens: int = 160_000
    passes: int = 2
    objective: Objective = "forward"
    on_policy: float = 0.0
    rank: int = 0
    batch: int = 4
    length: int = 256
    rate: float = 3e-4
    seed: int = 0

    def __post_init__(self) -> None:
        require_objective(self.objective)
        ranges = {
            "tokens": (self.tokens, 1024, 1 << 32),
            "passes": (self.passes, 1, 100),
            "on_policy": (self.on_policy, 0, 1),
            "rank": (self.rank, 0, 1024),
            "batch": (self.batch, 1, 1024),
            "length": (self.length, 16, 8192),
            "rate": (self.rate, 1e-8, 1),
        }
        for name, (value, least, most) in ranges.items():
            if not least <= value <= most:
                raise RequestError(f"{name} of a distillation must be {least:,} to {most:,}, not {value:,}")

    @property
    def steps(self) -> int:
        """Return the number of steps."""
        return max(1, self.tokens * self.passes // (self.batch * self.length))

    def json(self) -> str:
        """Return it as a line that tells recipes apart."""
        return json.dumps(asdict(self), sort_keys=True)
