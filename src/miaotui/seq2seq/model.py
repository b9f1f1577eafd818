"""The Python entry of encoder-decoders: `load_seq2seq`, then `Seq2Seq.translate`, `summarise` and `generate`.

Owns nothing but the calls: the tokenizer makes sources, `translation` cuts and checks texts, `Seq2SeqLoop` runs them.
`AsyncSeq2Seq` is its twin for event loops. Invariant: when a call returns or raises, its searches have ended.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from typing import Any

from miaotui.backends.build_seq2seq import Seq2SeqOptions
from miaotui.closing import Closing
from miaotui.encoder import deadline_of
from miaotui.engine.seq2seq.loaded import SourceTask
from miaotui.runtime import open_seq2seq_model
from miaotui.seq2seq.facade import Seq2SeqFacade, TargetText, listed_texts, piece_options
from miaotui.translation.markup import TextFormat
from miaotui.translation.result import Translation
from miaotui.types import Progress


def load_seq2seq(
    model: str | os.PathLike[str],
    *,
    format: str | None = None,
    threads: int | None = None,
    backend: str = "cpu",
    progress: Progress | None = None,
) -> Seq2Seq:
    """Load an encoder-decoder by folder or repository id.

    ``format`` (``q8``, ``q4``, ``f32``) packs weights that are stored as floats; ``backend`` is ``cpu`` or
    ``reference``. Raises a `MiaotuiError`.
    """
    options = Seq2SeqOptions(backend=backend, format=format or "q8", threads=threads)
    return Seq2Seq(open_seq2seq_model(model, options, progress=progress), owns_loop=True)


class Seq2Seq(Closing, Seq2SeqFacade):
    """A loaded encoder-decoder, for any number of threads at once.

    Close it, or use it in a ``with`` block, to give its memory back. Every call takes one text or several,
    ``deadline_ms``, within which all results must be there, and the options of the search under transformers' names
    (``num_beams``, ``length_penalty``, ``early_stopping``, ``no_repeat_ngram_size``, ``max_length``, ``min_length``),
    or ``temperature`` and ``seed``; the model's own are used otherwise. All raise `RequestError`, and
    `DeadlineUnattainableError` with a deadline.
    """

    def translate(
        self,
        texts: str | Iterable[str],
        *,
        source: str | None = None,
        target: str | None = None,
        format: TextFormat = "text",
        glossary: Mapping[str, str] | None = None,
        alternatives: int = 0,
        deadline_ms: float | None = None,
        **search: Any,
    ) -> list[Translation]:
        """Translate texts sentence by sentence, with markup in place and without loops and echoes.

        Languages are codes of the model or of two letters; see `languages`. ``format`` is ``text``, ``html`` or
        ``markdown``; ``glossary`` maps terms of the source to those of the target. A text that cannot be translated
        soundly has an error. Raises `FieldError` for a language that the model lacks.
        """
        options = piece_options(self.model, source, target, format, glossary, alternatives)
        arrived_s = time.perf_counter()
        rounds = self.translation_rounds(listed_texts(texts), options, search)
        while requests := rounds.requests:
            wanted = [(each.tokens, each.settings) for each in requests]
            rounds.send(self.answers(requests, self.loop.run(wanted, deadline_of(deadline_ms), arrived_s)))
        return rounds.results

    def summarise(
        self, texts: str | Iterable[str], *, deadline_ms: float | None = None, **search: Any
    ) -> list[TargetText]:
        """Write summaries of texts. Raises `PromptTooLongError` for a text that is too long."""
        return self._run(texts, self.model.summary(self.settings(search)), deadline_ms)

    def generate(
        self,
        texts: str | Iterable[str],
        *,
        source: str | None = None,
        target: str | None = None,
        deadline_ms: float | None = None,
        **search: Any,
    ) -> list[TargetText]:
        """Write the target of texts as they are: whole, unchecked, between two languages if they are named.

        Raises `PromptTooLongError` for a text that is too long.
        """
        return self._run(texts, self.plain_task(source, target, search), deadline_ms)

    def close(self) -> None:
        """Give the memory back. Closing twice does nothing."""
        self._close()

    def _run(self, texts: str | Iterable[str], task: SourceTask, deadline_ms: float | None) -> list[TargetText]:
        wanted = self.wanted(texts, task)
        found = self.loop.run(wanted, deadline_of(deadline_ms))
        return [self.target_text(*each) for each in zip(found, wanted, strict=True)]
