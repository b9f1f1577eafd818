"""An encoder-decoder in memory, and its tasks: from a text and a pair of languages to a source and a search.

Owns the record, which `miaotui.runtime` fills. Knows no threads. Invariant: everything in it is open until its backend
is closed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from miaotui.backends.seq2seq_backend import Seq2SeqBackend
from miaotui.errors import FieldError
from miaotui.model.seq2seq.config import Seq2SeqConfig
from miaotui.model.seq2seq.generation import GenerationSettings
from miaotui.text.language_names import language_subtag
from miaotui.text.seq2seq.tokenizer import Seq2SeqTokenizer

SUMMARY_PREFIX = "summarization"  # T5's name of the task


@dataclass(frozen=True)
class SourceTask:
    """Way from a text to its source, and the settings of the search for its target."""

    source: Callable[[str], list[int]]
    settings: GenerationSettings


@dataclass(frozen=True)
class LoadedSeq2Seq:
    """Parts of an encoder-decoder in memory. ``prefixes`` are the texts that tasks put before a source, by task."""

    path: Path
    config: Seq2SeqConfig
    generation: GenerationSettings
    tokenizer: Seq2SeqTokenizer
    backend: Seq2SeqBackend
    prefixes: Mapping[str, str]

    @property
    def max_tokens(self) -> int:
        """Return tokens of the longest source."""
        return self.backend.limits.source_tokens

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Return the pairs of languages that it is known to translate between; empty for one with codes, or none."""
        named = [name.removeprefix("translation_").split("_to_") for name in self.prefixes if "_to_" in name]
        pairs = [(pair[0], pair[1]) for pair in named if len(pair) == 2]
        own = self.tokenizer.pair
        return pairs or ([own] if all(own) else [])

    @property
    def translates(self) -> bool:
        """Return whether its files say that it translates."""
        return bool(self.tokenizer.languages or self.pairs)

    def translation(self, source: str | None, target: str | None, settings: GenerationSettings) -> SourceTask:
        """Return the task of translating. Raises `FieldError` for a language that the model lacks."""
        tokenizer, before = self.tokenizer, ""
        if tokenizer.languages and tokenizer.form.language != "target":
            code = tokenizer.language_id(target, "target")
            is_start = tokenizer.form.language == "last"  # mBART of 25 languages begins with the code itself
            settings = replace(settings, start_token=code) if is_start else replace(settings, forced_bos_id=code)
        elif not tokenizer.languages:
            before = _translation_prefix(self.prefixes, tokenizer.pair, source, target)
        return SourceTask(lambda text: tokenizer.source(before + text, source, target), settings)

    def summary(self, settings: GenerationSettings) -> SourceTask:
        """Return the task of summarising."""
        before = self.prefixes.get(SUMMARY_PREFIX, "")
        return SourceTask(lambda text: self.tokenizer.source(before + text), settings)

    def plain(self, settings: GenerationSettings) -> SourceTask:
        """Return the task of writing the target of a text as it is."""
        return SourceTask(self.tokenizer.source, settings)

    def text(self, tokens: tuple[int, ...], settings: GenerationSettings) -> tuple[str, tuple[int, ...], bool]:
        """Return the text that a target's tokens say, the tokens written, and whether it was cut at its limit."""
        written = tokens[1 + len(settings.prefix) :]
        text = self.tokenizer.join([token for token in written if token != settings.forced_bos_id])
        return text, written, not written or written[-1] not in settings.eos_ids


def _translation_prefix(
    prefixes: Mapping[str, str], pair: tuple[str, str], source: str | None, target: str | None
) -> str:
    """Return the text before a source for a model without codes: T5's, or none for a model of two languages.

    Raises `FieldError` for a target that the model is not known to write.
    """
    known = {name.removeprefix("translation_"): text for name, text in prefixes.items() if "_to_" in name}
    if known:
        source, target = (name and language_subtag(name) for name in (source, target))
        wanted = [name for name in known if name.endswith(f"_to_{target}") and name.startswith(f"{source or ''}")]
        if len(wanted) != 1:
            shown = ", ".join(sorted(known))
            raise FieldError("target", f"the model has no translation from {source} to {target}; it has {shown}")
        return known[wanted[0]]
    for field, own, name in (("source", pair[0], source), ("target", pair[1], target)):
        if name and own and own not in (name, language_subtag(name)):
            raise FieldError(field, f"the model translates from {pair[0]} to {pair[1]}, not {name[:40]!r}")
    return ""
