"""Prompts that fill in between two texts: the control tokens of each family, and their order.

Owns the families as data, and recognises a model's by its control tokens. Knows no engine. Invariant: only the form's
own tokens are control tokens; what a caller gives is text, whatever it looks like. Sources: Bavarian et al., "Efficient
Training of Language Models to Fill in the Middle" (2022), section 3, for the two orders; model cards of Qwen2.5-Coder,
StarCoder2, DeepSeek-Coder, Codestral, GLM-4.5 and Seed-Coder for the tokens; llama.cpp's server for files beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from miaotui.errors import FieldError, PromptTooLongError, RequestError
from miaotui.text.tokenizers.tokenizer import Tokenizer

_MARK = "\u263a"  # before a text that continues another one, so that no tokenizer puts a space there
_PROJECT = "project"


class NamedText(NamedTuple):
    """A file beside the one that is filled in."""

    name: str
    text: str


def named_texts(files: Sequence[tuple[str, str]]) -> list[NamedText]:
    """Return (name, text) pairs as named texts. Raises `FieldError` for what is no such pair."""
    found: list[NamedText] = []
    for number, pair in enumerate(files):
        parts = () if isinstance(pair, str) else tuple(pair)
        if len(parts) != len(NamedText._fields) or not all(isinstance(part, str) for part in parts):
            raise FieldError(f"files[{number}]", "must be a pair of texts: the file's name, and what is in it")
        found.append(NamedText(*parts))
    return found


@dataclass(frozen=True)
class InfillForm:
    """Control tokens of one family, as they are written in its vocabulary.

    ``middle`` is where the answer begins; None: behind the last part. ``file`` and ``repository`` introduce files
    beside it; None: the family has no such tokens. ``others`` end an answer as well.
    """

    title: str
    prefix: str
    suffix: str
    middle: str | None
    suffix_first: bool = False
    file: str | None = None
    repository: str | None = None
    others: tuple[str, ...] = ()

    @property
    def required(self) -> tuple[str, ...]:
        """Return the tokens without which a vocabulary is of another family."""
        return (self.prefix, self.suffix) if self.middle is None else (self.prefix, self.suffix, self.middle)


FORMS = (
    InfillForm(
        "Qwen2.5-Coder, CodeGemma",
        "<|fim_prefix|>",
        "<|fim_suffix|>",
        "<|fim_middle|>",
        file="<|file_sep|>",
        repository="<|repo_name|>",
        others=("<|fim_pad|>", "<|file_separator|>"),
    ),
    InfillForm(
        "StarCoder2, Granite Code",
        "<fim_prefix>",
        "<fim_suffix>",
        "<fim_middle>",
        file="<file_sep>",
        repository="<repo_name>",
        others=("<fim_pad>",),
    ),
    InfillForm("DeepSeek-Coder", "<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
    InfillForm("GLM-4.5", "<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),
    InfillForm("Seed-Coder", "<[fim-prefix]>", "<[fim-suffix]>", "<[fim-middle]>", suffix_first=True),
    InfillForm("Codestral", "[PREFIX]", "[SUFFIX]", None, suffix_first=True),
)


@dataclass(frozen=True)
class Infiller:
    """Maker of such prompts for one tokenizer; ``tokens`` are the ids of the form's control tokens."""

    form: InfillForm
    tokenizer: Tokenizer
    tokens: dict[str, int]

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Return the tokens that end an answer besides the model's own: none of the form's belongs into it."""
        return tuple(sorted(set(self.tokens.values())))

    def encode(
        self, prefix: str, suffix: str, *, files: Sequence[NamedText] = (), begun: str = "", at_most: int | None = None
    ) -> list[int]:
        """Return the prompt after which the model writes the text between ``prefix`` and ``suffix``.

        ``begun`` is how that text begins. ``files`` stand before all of it, behind the form's own tokens where it has
        them. Raises `RequestError` for text that is not Unicode, and `PromptTooLongError`.
        """
        form, tokens = self.form, self.tokens
        before = [tokens[form.prefix], *self._text(prefix, at_most)]
        after = [tokens[form.suffix], *self._text(suffix, at_most, joined=True)]
        parts = [*after, *before] if form.suffix_first else [*before, *after]
        if form.middle is not None:
            parts.append(tokens[form.middle])
        prompt = [*self.tokenizer.roles.prefix, *self._files(files, at_most), *parts]
        prompt += self._text(begun, at_most, joined=True)
        if at_most is not None and len(prompt) > at_most:
            raise PromptTooLongError(
                f"the texts around the gap have {len(prompt):,} tokens, and the context holds {at_most:,}: send "
                "less of them, or load the model with a larger context"
            )
        return prompt

    def _files(self, files: Sequence[NamedText], at_most: int | None) -> list[int]:
        if not files:
            return []
        form = self.form
        if form.file is None or form.file not in self.tokens:
            return self._text("".join(f"--- {file.name} ---\n{file.text}\n" for file in files), at_most)
        prompt: list[int] = []
        if form.repository in self.tokens:
            prompt += [self.tokens[form.repository], *self._text(f"{_PROJECT}\n", at_most)]
        for file in files:
            prompt += [self.tokens[form.file], *self._text(f"{file.name}\n{file.text}\n", at_most)]
        return [*prompt, self.tokens[form.file], *self._text("filename\n", at_most)]

    def _text(self, text: str, at_most: int | None, *, joined: bool = False) -> list[int]:
        """Return the ids of plain text; ``joined``: no space before it that was never written."""
        tokenizer = self.tokenizer
        if not text:
            return []
        if not joined or not tokenizer.roles.drops_space:
            return tokenizer.encode(text, special=False, at_most=at_most)
        mark = tokenizer.encode(_MARK, special=False)
        return tokenizer.encode(_MARK + text, special=False, at_most=at_most)[len(mark) :]


def find_infiller(tokenizer: Tokenizer) -> Infiller | None:
    """Return the maker of prompts for the family that the vocabulary belongs to; None if it has no such tokens."""
    known = tokenizer.control_texts
    for form in FORMS:
        if all(text in known for text in form.required):
            wanted = (*form.required, form.file, form.repository, *form.others)
            tokens = {text: known[text] for text in wanted if text is not None and text in known}
            return Infiller(form, tokenizer, tokens)
    return None


def require_infiller(tokenizer: Tokenizer) -> Infiller:
    """Return what `find_infiller` does. Raises `RequestError` for a model that only continues texts."""
    found = find_infiller(tokenizer)
    if found is None:
        raise RequestError(
            "the model cannot fill in between two texts: its vocabulary has no tokens for it. Choose one that was "
            "trained for it, such as qwen2.5-coder-0.5b"
        )
    return found
