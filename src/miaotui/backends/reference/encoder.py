"""The reference backend of encoders: the oracle, text by text.

Read this to see what an `EncoderBackend` does; nothing here is compiled or fast. Owns the order of a pass alone.
Invariant: each text is computed by itself, so its states depend on no other text.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from miaotui.backends.encoder_backend import EncodeResult, EncoderIdentity, EncoderLimits, TextRows, check_texts
from miaotui.hub.formats.tensors import StoredTensor
from miaotui.model.encoder.config import EncoderConfig
from miaotui.model.encoder.oracle import EncoderOracle

PASS_ROWS = 512  # of a pass, unless one text may be longer


class ReferenceEncoder:
    """An `EncoderBackend` in NumPy."""

    def __init__(
        self,
        config: EncoderConfig,
        weights: Mapping[str, StoredTensor] | Mapping[str, NDArray[np.float32]],
        limits: EncoderLimits | None = None,
    ) -> None:
        self.limits = limits or EncoderLimits(max(PASS_ROWS, config.max_tokens), config.max_tokens)
        self.identity = EncoderIdentity("reference", ("f32",), "float32 in NumPy, 1")
        self._config, self._oracle = config, EncoderOracle(config, weights)

    def encode(self, texts: Sequence[TextRows]) -> EncodeResult:
        """Compute the states of each text. Raises `RequestError`, see `EncoderBackend.encode`."""
        check_texts(texts, self.limits, self._config.vocab_size, self._config.type_vocab_size)
        start_s = time.perf_counter()
        states = [self._oracle.states(text.tokens, text.types) for text in texts]
        return EncodeResult(states, time.perf_counter() - start_s)

    def output_product(self) -> None:
        """Return None: NumPy computes heads as well."""

    def close(self) -> None:
        """Do nothing: the arrays go with this object."""
