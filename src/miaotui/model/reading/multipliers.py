"""Factors of embeddings, residual branches, attention scores and logits, and the configuration without most of them.

Owns their keys and the algebra. Invariant: the folded model gives the logits of the file's. A factor r of what layers
add is that of the embedding divided by r, since norms do not see a common factor but for their epsilon, which becomes
epsilon / r²; a factor of the logits is one of the final norm's weights. Sources: Granite 3's and MiniCPM's (Hu et al.,
2024, arXiv:2404.06395, section 3) configurations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from miaotui.model.reading.architectures import Architecture
from miaotui.model.reading.checks import require_positive
from miaotui.model.reading.fields import Fields

GGUF_KEYS = {"embedding": "embedding_scale", "residual": "residual_scale", "logits": "logit_scale"}


@dataclass(frozen=True)
class Multipliers:
    """Factors of one model; ``attention`` None: as the size of heads says."""

    embedding: float = 1.0
    residual: float = 1.0
    logits: float = 1.0
    attention: float | None = None

    def __post_init__(self) -> None:
        for name in ("embedding", "residual", "logits"):
            require_positive(f"factor of its {name}", getattr(self, name))

    @property
    def embedding_scale(self) -> float:
        """Return the factor of the embeddings where branches have none."""
        return self.embedding / self.residual

    def norm_eps(self, eps: float) -> float:
        """Return the epsilon of norms over the stream that is 1 / ``residual`` times the file's."""
        return eps / self.residual**2


def multipliers_from_hf(fields: Fields, architecture: Architecture, n_layers: int, hidden_size: int) -> Multipliers:
    """Read the factors that ``config.json`` names; absent ones are 1."""
    keys = architecture.multipliers
    found = {name: fields.number(key, 1.0) for name, key in keys.items() if name in ("embedding", "residual", "logits")}
    if "depth" in keys:
        found["residual"] = fields.number(keys["depth"], math.sqrt(n_layers)) / math.sqrt(n_layers)
    if "width" in keys:
        found["logits"] = hidden_size / fields.number(keys["width"], hidden_size)
    attention = fields.number(keys["attention"], 1.0) if "attention" in keys else None
    return _made(architecture, found, attention)


def multipliers_from_gguf(fields: Fields, architecture: Architecture, n_layers: int, hidden_size: int) -> Multipliers:
    """Read the factors in GGUF metadata; a MiniCPM file of an early converter lacks them."""
    defaults = {"embedding": 1.0, "residual": 1.0, "logits": 1.0}
    if "width" in architecture.multipliers:
        defaults = {"embedding": 12.0, "residual": 1.4 / math.sqrt(n_layers), "logits": hidden_size / 256}
    found = {name: fields.number(key, defaults[name]) for name, key in GGUF_KEYS.items()}
    return _made(architecture, found, None)


def _made(architecture: Architecture, found: dict[str, float], attention: float | None) -> Multipliers:
    logits = found.get("logits", 1.0)
    if architecture.divided_logits:
        require_positive("factor of its logits", logits)
        logits = 1 / logits
    return Multipliers(found.get("embedding", 1.0), found.get("residual", 1.0), logits, attention)
