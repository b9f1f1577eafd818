"""The Python entry of encoder-decoders: `load_seq2seq`, then `Seq2Seq.translate`, `summarise` and `generate`.

Owns nothing but the calls: the tokenizer makes sources, `Seq2SeqLoop` runs them. Invariant: when a call returns or
raises, its searches have ended.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from miaotui.closing import Closing, LoopHolder
from miaotui.engine.search.search import FoundTarget
from miaotui.engine.seq2seq.loop import Seq2SeqLoop
from miaotui.errors import FieldError, RequestError
from miaotui.model.seq2seq.generation import GenerationSettings
from miaotui.runtime import open_seq2seq_model
from miaotui.submission import require_known
from miaotui.types import Progress

SEARCH_OPTIONS = tuple(each.name for each in fields(GenerationSettings))


@dataclass(frozen=True)
class TargetText:
    """Text that an encoder-decoder wrote. ``score``: mean log-probability of its tokens, by the length's penalty.

    ``is_cut``: it ended at the limit of its length.
    """

    text: str
    score: float
    token_ids: tuple[int, ...]
    source_tokens: int
    is_cut: bool


def load_seq2seq(
    model: str | os.PathLike[str], *, backend: str = "reference", progress: Progress | None = None
) -> Seq2Seq:
    """Load an encoder-decoder by folder or repository id. Raises a `MiaotuiError`."""
    return Seq2Seq(open_seq2seq_model(model, backend, progress=progress), owns_loop=True)


class Seq2Seq(Closing, LoopHolder[Seq2SeqLoop]):
    """A loaded encoder-decoder, for any number of threads at once.

    Close it, or use it in a ``with`` block, to give its memory back. Every call takes one text or several, and the
    options of the search under transformers' names (``num_beams``, ``length_penalty``, ``early_stopping``,
    ``no_repeat_ngram_size``, ``max_length``, ``min_length``); the model's own are used otherwise. All raise
    `RequestError` and `PromptTooLongError`.
    """

    @property
    def languages(self) -> list[str]:
        """Return the codes of the languages that `translate` takes; empty for a model that has no codes."""
        return sorted(self.loop.model.tokenizer.languages)

    def translate(
        self, texts: str | Iterable[str], *, source: str | None = None, target: str | None = None, **search: Any
    ) -> list[TargetText]:
        """Translate texts. Languages are codes of the model or of two letters; see `languages`.

        Raises `FieldError` for a language that the model lacks.
        """
        model = self.loop.model
        tokenizer, before = model.tokenizer, ""
        settings = self._settings(search)
        if tokenizer.languages and tokenizer.form.language != "target":
            code = tokenizer.language_id(target, "target")
            is_start = tokenizer.form.language == "last"  # mBART of 25 languages begins with the code itself
            settings = replace(settings, start_token=code) if is_start else replace(settings, forced_bos_id=code)
        elif not tokenizer.languages:
            before = _translation_prefix(model.prefixes, tokenizer.pair, source, target)
        return self._run(texts, before, settings, source, target)

    def summarise(self, texts: str | Iterable[str], **search: Any) -> list[TargetText]:
        """Write summaries of texts."""
        return self._run(texts, self.loop.model.prefixes.get("summarization", ""), self._settings(search))

    def generate(self, texts: str | Iterable[str], **search: Any) -> list[TargetText]:
        """Write the target of texts as they are, without a task's prefix."""
        return self._run(texts, "", self._settings(search))

    def close(self) -> None:
        """Give the memory back. Closing twice does nothing."""
        self._close()

    def _settings(self, search: Mapping[str, Any]) -> GenerationSettings:
        require_known(search, SEARCH_OPTIONS)
        return replace(self.loop.model.generation, **search)

    def _run(
        self,
        texts: str | Iterable[str],
        before: str,
        settings: GenerationSettings,
        source: str | None = None,
        target: str | None = None,
    ) -> list[TargetText]:
        given = [texts] if isinstance(texts, str) else list(texts)
        if not all(isinstance(text, str) for text in given):
            raise RequestError("texts must be strings: give one, or several")
        tokenizer = self.loop.model.tokenizer
        sources = [tokenizer.source(before + text, source, target) for text in given]
        found = self.loop.run([(tokens, settings) for tokens in sources])
        return [self._text(each, tokens, settings) for each, tokens in zip(found, sources, strict=True)]

    def _text(self, found: FoundTarget, source: list[int], settings: GenerationSettings) -> TargetText:
        written = found.tokens[1 + len(settings.prefix) :]
        text = self.loop.model.tokenizer.join([token for token in written if token != settings.forced_bos_id])
        is_cut = not written or written[-1] not in settings.eos_ids
        return TargetText(text, found.score, written, len(source), is_cut)


def _translation_prefix(
    prefixes: Mapping[str, str], pair: tuple[str, str], source: str | None, target: str | None
) -> str:
    """Return the text before a source for a model without codes: T5's, or none for a model of two languages.

    Raises `FieldError` for a target that the model is not known to write.
    """
    known = {name.removeprefix("translation_"): text for name, text in prefixes.items() if "_to_" in name}
    if known:
        wanted = [name for name in known if name.endswith(f"_to_{target}") and name.startswith(f"{source or ''}")]
        if len(wanted) != 1:
            shown = ", ".join(sorted(known))
            raise FieldError("target", f"the model has no translation from {source} to {target}; it has {shown}")
        return known[wanted[0]]
    for field, own, name in (("source", pair[0], source), ("target", pair[1], target)):
        if name and own and name != own:
            raise FieldError(field, f"the model translates from {pair[0]} to {pair[1]}, not {name[:40]!r}")
    return ""
