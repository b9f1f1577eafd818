"""A loaded encoder-decoder: its parts, and the loop in which calls of several threads share its passes.

Owns the lock and the order: whoever waits for a result runs the next step. Knows no texts. Invariant: when a call
returns or raises, its searches have ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from miaotui.backends.seq2seq_backend import Seq2SeqBackend
from miaotui.engine.search.search import FoundTarget
from miaotui.engine.seq2seq.searches import SearchQueue, TargetRequest
from miaotui.errors import EngineError
from miaotui.model.seq2seq.config import Seq2SeqConfig
from miaotui.model.seq2seq.generation import GenerationSettings
from miaotui.text.seq2seq.tokenizer import Seq2SeqTokenizer


@dataclass(frozen=True)
class LoadedSeq2Seq:
    """Parts of an encoder-decoder in memory. ``prefixes`` are the texts that tasks put before a source, by task."""

    path: Path
    config: Seq2SeqConfig
    generation: GenerationSettings
    tokenizer: Seq2SeqTokenizer
    backend: Seq2SeqBackend
    prefixes: dict[str, str]


class Seq2SeqLoop:
    """Loop of one encoder-decoder, for any number of threads."""

    def __init__(self, model: LoadedSeq2Seq) -> None:
        self.model = model
        self._queue = SearchQueue(model.backend, model.config.vocab_size)
        self._lock = Lock()
        self._is_closed = False

    def run(self, wanted: Sequence[tuple[Sequence[int], GenerationSettings]]) -> list[FoundTarget]:
        """Search for the targets of sources and return them in order. Raises `RequestError` before any is computed."""
        requests: list[TargetRequest] = []
        try:
            with self._lock:
                self._require_open()
                for source, settings in wanted:
                    requests.append(self._queue.submit(source, settings))
            while not all(request.is_over for request in requests):
                with self._lock:  # let go between steps, so that other calls join in
                    self._require_open()
                    self._queue.step()
        finally:
            with self._lock:
                for request in requests:
                    self._queue.cancel(request)
        found = [request.result for request in requests if request.result is not None]
        if len(found) < len(requests):
            raise EngineError("a pass that held this source failed: send it again")
        return found

    def close(self) -> None:
        """Give the memory back. Closing twice does nothing."""
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                self.model.backend.close()

    def _require_open(self) -> None:
        if self._is_closed:
            raise EngineError("this model is closed: load it again")
