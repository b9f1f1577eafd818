"""Log-probabilities as the model gave them.

Of the raw logits, before bias, penalties, temperature and filters. Knows nothing of how the token
was chosen. The sum runs over exact integers (see the draw kernels), so a value never depends on
threads or batches.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from miaotui.backends.cpu import draw
from miaotui.types import TokenLogprobs


def token_logprobs(row: NDArray[np.float32], peak: float, token_id: int, n: int) -> TokenLogprobs:
    """The log-probabilities (nats) of ``token_id`` and of the ``n`` best in ``row [vocab]``.

    ``peak`` is the row's greatest logit. Among equals the lower id comes first; tokens at -inf are
    left out.
    """
    base = peak + draw.log_total(row, peak)
    top = tuple((i, float(row[i]) - base) for i in draw.best(row, n))
    return TokenLogprobs(token_id, float(row[token_id]) - base, top)
