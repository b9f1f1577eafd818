"""An encoder's backend for tests of order and time: a table of states, whose passes take as long as it is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from miaotui.backends.encoder_backend import EncodeResult, EncoderIdentity, EncoderLimits, TextRows, check_texts
from miaotui.engine.encoding.job import Reduction

HIDDEN, VOCAB = 8, 1000
FIRST = Reduction("first", lambda _index, states: states[0].copy())


class TableEncoder:
    """States are rows of a table; a pass takes ``row_s`` for each row and is noted in ``passes``."""

    def __init__(self, rows: int = 256, tokens: int = 64, row_s: float = 0.0) -> None:
        self.limits = EncoderLimits(rows, tokens)
        self.identity = EncoderIdentity("table", (), "1")
        self.row_s, self.passes, self.closed = row_s, list[list[TextRows]](), False
        self.gate = threading.Event()
        self.gate.set()
        self.error: Exception | None = None
        self._table = np.random.default_rng(1).standard_normal((VOCAB, HIDDEN), np.float32)

    def encode(self, texts: Sequence[TextRows]) -> EncodeResult:
        self.gate.wait(10)
        check_texts(texts, self.limits, VOCAB, 2)
        if self.error is not None:
            raise self.error
        start_s = time.perf_counter()
        time.sleep(self.row_s * sum(len(text.tokens) for text in texts))
        self.passes.append(list(texts))
        return EncodeResult([self._table[list(text.tokens)] for text in texts], time.perf_counter() - start_s)

    def close(self) -> None:
        self.closed = True


def texts_of(*lengths: int, token: int = 1) -> list[TextRows]:
    """Texts of these lengths, all of one token."""
    return [TextRows((token,) * n) for n in lengths]


def rows_of(picks: Sequence[Any]) -> int:
    return sum(len(job.texts[place].tokens) for job, place in picks)
