"""Slopes of ALiBi: scores of attention that fall with distance instead of a position encoding.

Knows head counts alone. Source: Press et al. 2022, "Train Short, Test Long", section 3. Invariant: slopes fall from
head to head within each of the two series.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def alibi_slopes(n_heads: int) -> NDArray[np.float32]:
    """Return each head's slope, ``[heads]``; other counts than powers of two continue with every second of the next."""
    power = 1 << (n_heads.bit_length() - 1)
    slopes = [2 ** (-8 * (head + 1) / power) for head in range(power)]
    between = [2 ** (-4 * (2 * head + 1) / power) for head in range(n_heads - power)]
    return np.array(slopes + between, np.float32)
