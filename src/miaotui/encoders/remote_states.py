"""The sizes of an encoder whose states are computed in other processes.

Owns what a tokenizer needs to know of a backend. Invariant: it computes nothing here, and says so.
"""

from __future__ import annotations

from collections.abc import Sequence

from miaotui.backends.encoder_backend import EncodeResult, EncoderIdentity, EncoderLimits, RowsProduct, TextRows
from miaotui.errors import EngineError


class RemoteStates:
    """An `EncoderBackend` of texts up to ``tokens``, elsewhere, over files of that ``digest``."""

    def __init__(self, tokens: int, digest: str) -> None:
        self.limits = EncoderLimits(rows=tokens, tokens=tokens)
        self.identity = EncoderIdentity("remote", (), digest)

    def encode(self, texts: Sequence[TextRows]) -> EncodeResult:
        """Raise `EngineError`."""
        raise EngineError("the states of this encoder are computed in other processes: submit a job to its loop")

    def output_product(self) -> RowsProduct | None:
        """Return None."""

    def close(self) -> None:
        """Do nothing."""
