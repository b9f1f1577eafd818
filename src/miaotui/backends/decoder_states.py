"""A decoder's states as those of an encoder: whole texts in, the states after its final norm out.

Owns the pages of keys and values and the order of passes; the arithmetic is any `Backend` with hidden states. Knows
neither pooling nor scores. Invariants: a row sees its text up to itself; a text's states are the same bytes however
it is cut into chunks and whatever else a pass holds, as the backend's own are.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np

from miaotui.backends.backend import Backend, RowStates, require
from miaotui.backends.encoder_backend import EncodeResult, EncoderIdentity, EncoderLimits, Floats, TextRows, check_texts
from miaotui.model.config import ModelConfig
from miaotui.schedule.plan import Chunk, Plan, RowKind, pages_for


class DecoderStates:
    """An `EncoderBackend` over a decoder. ``norm`` and ``bias`` are its final norm's."""

    def __init__(
        self, backend: Backend, config: ModelConfig, tokens: int, norm: Floats, bias: Floats | None = None
    ) -> None:
        require(backend, "hidden_states")
        self._backend, self._config, self._norm, self._bias = backend, config, norm, bias
        self.limits = EncoderLimits(max(backend.limits.rows, tokens), tokens)
        found = backend.identity
        self.identity = EncoderIdentity(f"{found.name} decoder", found.formats, f"{found.arithmetic}, {found.kv}")

    def encode(self, texts: Sequence[TextRows]) -> EncodeResult:
        """Compute the states of whole texts. Raises `RequestError`, see `EncoderBackend.encode`."""
        check_texts(texts, self.limits, self._config.vocab_size, 1)
        start_s = time.perf_counter()
        parts: list[list[Floats]] = [[] for _ in texts]
        for chunks in self._plans(texts):
            for place, states in self._run(chunks):
                parts[place].append(states)
        whole = [each[0] if len(each) == 1 else np.concatenate(each) for each in parts]
        return EncodeResult([self._normed(each) for each in whole], time.perf_counter() - start_s)

    def output_product(self) -> None:
        """Return None: decoders that are used as encoders have no such head."""

    def close(self) -> None:
        """Give the memory of the weights back; the backend must not be used after."""
        self._backend.close()

    def _plans(self, texts: Sequence[TextRows]) -> Iterator[list[Chunk]]:
        """Yield the chunks of one pass after the other; a text longer than a pass is cut, in pages of its own."""
        limits = self._backend.limits
        chunks: list[Chunk] = []
        rows = used = 0
        for place, text in enumerate(texts):
            n, needed = len(text.tokens), pages_for(len(text.tokens))
            if chunks and (rows + n > limits.rows or used + needed > limits.pages):
                yield chunks
                chunks, rows, used = [], 0, 0
            pages = tuple(range(used, used + needed))
            for first in range(0, n, limits.rows):
                tokens = tuple(text.tokens[first : first + limits.rows])
                if first:  # the rows before it must be done
                    yield chunks
                    chunks, rows = [], 0
                chunks.append(
                    Chunk(place, first, tokens, pages[: pages_for(first + len(tokens))], 0, kind=RowKind.PREFILL)
                )
                rows += len(tokens)
            used += needed
        if chunks:
            yield chunks

    def _run(self, chunks: Sequence[Chunk]) -> Iterator[tuple[int, Floats]]:
        """Run one pass; yield each chunk's text and a copy of its rows' states after the last layer."""
        last = self._backend.limits.layers.stop
        result = self._backend.run(Plan(tuple(chunks)), states=RowStates(layers=(last,)))
        row = 0
        for chunk in chunks:
            yield chunk.sequence, result.states[last][row : row + len(chunk.tokens)].copy()
            row += len(chunk.tokens)

    def _normed(self, x: Floats) -> Floats:
        """Return states ``[n, hidden]`` after the final norm."""
        if self._config.norm == "layer":
            x = x - x.mean(axis=-1, keepdims=True)
        mean_square = np.mean(x * x, axis=-1, keepdims=True)
        y: Floats = x / np.sqrt(mean_square + np.float32(self._config.norm_eps)) * self._norm
        return y if self._bias is None else y + self._bias
