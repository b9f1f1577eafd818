"""Turns a source text into an encoder-decoder's tokens, with its language and end, and target tokens into text.

Owns the interface and the form of sources. Does not know how text is cut, nor files. Invariant: text becomes plain
tokens only, whatever it looks like; languages come from arguments, never from the text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from miaotui.text.seq2seq.languages import found_language


@dataclass(frozen=True, kw_only=True)
class SourceForm:
    """Tokens around a source; ``language`` says where the code of its language stands, "" for nowhere."""

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    language: str = ""  # "first", "last", or "target" for the target's code as the first token (Marian)


@dataclass(frozen=True, kw_only=True)
class Seq2SeqTokenizer:
    """Tokenizer of an encoder-decoder; safe to use from several threads.

    ``cut`` gives the tokens of a plain text, ``join`` the text of target tokens without special ones; ``languages`` are
    the ids of the languages' codes, ``sentinels`` those of masked spans in their order (T5's ``<extra_id_0>``, ...).
    """

    cut: Callable[[str], list[int]]
    join: Callable[[Sequence[int]], str]
    form: SourceForm
    languages: Mapping[str, int] = field(default_factory=dict)
    default_source: str = ""  # code of the language that a source has unless a caller names another
    sentinels: tuple[int, ...] = ()
    pair: tuple[str, str] = ("", "")  # source and target of a model for two languages; "" for unknown

    def source(self, text: str, source: str | None = None, target: str | None = None) -> list[int]:
        """Return the tokens of a source text. Raises `FieldError` for a language that the model lacks."""
        ids = [*self.form.before, *self.cut(text), *self.form.after]
        wanted = target if self.form.language == "target" else source or self.default_source or None
        if not self.form.language:
            return ids
        name = "target" if self.form.language == "target" else "source"
        code = found_language(wanted, self.languages, name)
        return [*ids, self.languages[code]] if self.form.language == "last" else [self.languages[code], *ids]

    def source_of_parts(self, parts: Sequence[str]) -> list[int]:
        """Return the tokens of a source with a sentinel between each two parts, as many as there are sentinels for."""
        ids = self.cut(parts[0])
        for sentinel, part in zip(self.sentinels, parts[1:], strict=False):
            ids += [sentinel, *self.cut(part)]
        return [*self.form.before, *ids, *self.form.after]

    def language_id(self, name: str | None, role: str) -> int:
        """Return the id of a language's code; ``role`` ("source", "target") names the field in errors.

        Raises `FieldError` for a language that the model lacks.
        """
        return self.languages[found_language(name, self.languages, role)]
