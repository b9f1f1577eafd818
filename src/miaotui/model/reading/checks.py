"""Checks of values from model files, each with one clear error.

Knows nothing of architectures. Invariant: a value that fails raises `ModelFormatError`, which names the value, the
expectation and the finding. Nothing is repaired silently.
"""

from __future__ import annotations

import math

from miaotui.errors import ModelFormatError

MAX_FACTOR = 1e6  # of scales, ratios and soft caps


def require(holds: bool, name: str, expected: str, got: object) -> None:
    """Raise `ModelFormatError` unless ``holds``."""
    if not holds:
        raise ModelFormatError(
            f"the model's {name} must be {expected}, not {got!r}: "
            "the file is damaged or of an unknown kind; download it again or choose another model"
        )


def require_count(name: str, value: object, most: int) -> None:
    """Require a whole number in ``[1, most]``."""
    whole = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most
    require(whole, name, f"a whole number in [1, {most}]", value)


def require_positive(name: str, value: float, most: float = MAX_FACTOR) -> None:
    """Require a finite number in ``(0, most]``."""
    require(math.isfinite(value) and 0 < value <= most, name, f"in (0, {most:g}]", value)
