"""Whisper's special tokens: where a transcript begins and ends, languages, tasks, timestamps, and what is not speech.

Owns their ids and the texts that are not written. Knows no files and no search. Invariant: all ids lie in the
vocabulary, and timestamps are its last tokens, 20 ms apart. Source: openai/whisper, ``tokenizer.py``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from miaotui.errors import FieldError, ModelFormatError
from miaotui.text.language_names import language_subtag

ENGLISH_END = 50_256  # id of the end token in the models of English alone, which keep the languages' tokens
ENGLISH_TOKENS = 51_864  # of these models; the others have one or two more
TOKENS_A_SECOND = 50  # timestamps, and rows of the encoder
_LANGUAGE = re.compile(r"<\|([a-z]{2,3})\|>")
_SYMBOLS = [*'"#()*+/:;<=>@[\\]^_`{|}~「」『』']
_GROUPS = ["<<", ">>", "<<<", ">>>", "--", "---", "-(", "-[", "('", '("']
_GROUPS += ["((", "))", "(((", ")))", "[[", "]]", "{{", "}}", "♪♪", "♪♪♪"]
_MUSIC = [*"♩♪♫♬♭♮♯"]  # of one token or several; all begin with the first one of several


@dataclass(frozen=True, kw_only=True)
class SpeechTokens:
    """Ids of special tokens. Models of English alone have no languages, and no tasks."""

    end: int
    start: int
    previous: int  # before the text that stands before
    no_speech: int
    first_timestamp: int
    vocab_size: int
    tasks: Mapping[str, int] = field(default_factory=dict)
    languages: Mapping[str, int] = field(default_factory=dict)
    suppressed: tuple[int, ...] = ()  # never written
    begin_suppressed: tuple[int, ...] = ()  # not written as the first token

    @property
    def no_timestamps(self) -> int:
        """Return the token that asks for text without timestamps."""
        return self.first_timestamp - 1

    @property
    def language_codes(self) -> tuple[str, ...]:
        """Return the codes of the languages that the model knows."""
        return tuple(self.languages) or ("en",)

    def language_code(self, name: str) -> str:
        """Return the code of a language by code, tag (``en-US``) or English name. Raises `FieldError`."""
        for code in (name.strip().lower(), language_subtag(name)):
            if code in self.language_codes:
                return code
        shown = ", ".join(self.language_codes)
        raise FieldError("language", f"the model has no language {name[:40]!r}; it has {shown}")

    def code_of(self, token: int | None) -> str:
        """Return the code of a language's token."""
        return next((code for code, each in self.languages.items() if each == token), "en")

    def task(self, name: str) -> int | None:
        """Return the token of a task; None for a model of English alone, which transcribes. Raises `FieldError`."""
        if not self.tasks and name != "transcribe":
            raise FieldError("task", "the model knows English alone and cannot translate: choose a multilingual one")
        return self.tasks.get(name)


def speech_tokens(
    ids: Mapping[str, int], encode: Callable[[str], list[int]], vocab_size: int, source_rows: int
) -> SpeechTokens:
    """Return the special tokens of a tokenizer; ``ids`` are those of special tokens by text.

    Raises `ModelFormatError` where one is missing, or the vocabulary lacks timestamps for ``source_rows``.
    """

    def required(*names: str) -> int:
        found = next((ids[f"<|{name}|>"] for name in names if f"<|{name}|>" in ids), None)
        if found is None:
            raise ModelFormatError(f"the tokenizer lacks <|{names[0]}|>: it is of another model; get the files again")
        return found

    end, last = required("endoftext"), required("notimestamps")
    if last + 1 + source_rows >= vocab_size:
        raise ModelFormatError(
            f"the model's {vocab_size:,} tokens leave no room for {source_rows:,} timestamps behind token {last}: "
            "the tokenizer is of another model; get the files again"
        )
    found = {match[1]: token for text, token in ids.items() if (match := _LANGUAGE.fullmatch(text))}
    known = {code: token for code, token in found.items() if end < token < last}
    tasks = {name: required(name) for name in ("transcribe", "translate")}
    start, previous = required("startoftranscript"), required("startofprev")
    no_speech = required("nospeech", "nocaptions")
    language_model = ids.get("<|startoflm|>", start)
    own = {*tasks.values(), start, previous, language_model, no_speech, last}
    is_multilingual = end != ENGLISH_END
    return SpeechTokens(
        end=end,
        start=start,
        previous=previous,
        no_speech=no_speech,
        first_timestamp=last + 1,
        vocab_size=vocab_size,
        tasks=tasks if is_multilingual else {},
        languages=known if is_multilingual else {},
        suppressed=tuple(sorted(own.union(_not_spoken(encode)))),
        begin_suppressed=(*encode(" "), end),
    )


def _not_spoken(encode: Callable[[str], list[int]]) -> set[int]:
    """Return tokens of signs that annotate speech, such as brackets and notes."""
    found = {tokens[0] for text in (" -", " '") if (tokens := encode(text))}
    for symbol in (*_SYMBOLS, *_GROUPS, *_MUSIC):
        for tokens in (encode(symbol), encode(f" {symbol}")):
            if len(tokens) == 1 or (tokens and symbol in _MUSIC):
                found.add(tokens[0])
    return found
