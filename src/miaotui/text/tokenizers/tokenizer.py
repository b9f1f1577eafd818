"""Turns text into token ids and back, whatever file the tokenizer came from.

Owns what all tokenizers share: tokens put before and after a text, special tokens left out of an
answer, and decoding that never shows half a character. Does not know how text is cut or merged.
Invariant: what a `TextStream` returns for some tokens, joined, is what `Tokenizer.decode` returns.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from miaotui.errors import PromptTooLongError, RequestError
from miaotui.text.tokenizers.encoder import ControlSpan, SpecialTokens, TextEncoder

_SLACK = 4  # how much shorter a normalizer may make a text


@dataclass(frozen=True)
class TokenRoles:
    """Tokens with a purpose of their own. `size`: token ids are below it.

    `prefix` and `suffix` are put around a text by the model's own rules; `special_ids` are markers
    that are no part of an answer; `drops_space`: a text starts with a space that was never written
    (SentencePiece's), to be dropped when decoding; `eos_id` is the end token that the file names first.
    """

    size: int
    bos_id: int | None
    eos_ids: frozenset[int]
    special_ids: frozenset[int]
    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()
    drops_space: bool = False
    eos_id: int | None = None


@dataclass(frozen=True, slots=True)
class SpellingTable:
    """The bytes of each token: its text in the vocabulary, its `letters` replaced, in an `encoding`.

    A text that the encoding cannot write stands for its own UTF-8. `exact` has the tokens that are spelled otherwise.
    """

    text_of: Callable[[int], str | None]
    letters: Mapping[int, int | str]
    encoding: str = "utf-8"
    exact: Mapping[int, bytes] = field(default_factory=dict)

    def __call__(self, token_id: int) -> bytes:
        """Return the bytes of a token."""
        found = self.exact.get(token_id)
        if found is not None:
            return found
        text = self.text_of(token_id) or ""
        try:
            return text.translate(self.letters).encode(self.encoding)
        except UnicodeEncodeError:
            return text.encode()


class Tokenizer:
    """Tokenizer of one model: text into token ids, and ids into text; safe to use from several threads.

    `encoder` gives the ids of a text alone; `spell(id)` gives the bytes of a token, mostly a `SpellingTable`.
    """

    def __init__(self, encoder: TextEncoder, spell: Callable[[int], bytes], roles: TokenRoles) -> None:
        self._encoder = encoder
        self._spell = spell
        self._spelled: dict[int, bytes] = {}
        self._texts: dict[int, str | None] = {}
        self._longest: int | None = None
        self.roles = roles
        self.vocab_size = roles.size
        self.bos_id = roles.bos_id
        self.eos_ids = roles.eos_ids
        self.eos_id = min(roles.eos_ids, default=None) if roles.eos_id is None else roles.eos_id
        self.special_ids = self._hidden = roles.special_ids

    def encode(
        self, text: str, special: bool = True, *, whole: bool | None = None, at_most: int | None = None
    ) -> list[int]:
        """Return the token ids of `text`.

        `special=True`: special tokens written in the text are recognised (for raw prompts).
        `special=False`: the text is taken as plain characters, whatever it looks like (for untrusted
        texts). `whole`: put the model's beginning and end tokens around it, unless it already begins
        with them; by default as `special`. `at_most`: refuse a text that must have more tokens than
        this before it is cut, which for megabytes would take seconds and gigabytes. Raises
        `RequestError` for text that is not valid Unicode, and `PromptTooLongError`.
        """
        self._check(text, at_most)
        ids = self._encoder.encode(text, special)
        return self._surrounded(ids) if (special if whole is None else whole) else ids

    def encode_at(self, text: str, spans: Sequence[ControlSpan], *, at_most: int | None = None) -> list[int]:
        """Return the ids of a whole prompt with control tokens at `spans` only.

        All other characters are text, whatever they look like. With the spans that `find_controls` gives
        for the same text the ids are those of `encode`. Raises as `encode` does.
        """
        self._check(text, at_most)
        return self._surrounded(self._encoder.encode_at(text, spans))

    def find_controls(self, text: str) -> list[ControlSpan]:
        """Return the places of all control tokens written in `text`, in order."""
        controls = self.control_texts
        return [span for span in self._added.find(text) if controls.get(text[span.start : span.end]) == span.token]

    @property
    def control_texts(self) -> Mapping[str, int]:
        """Return the ids of the control tokens that can be written in a text, by their texts."""
        return self._encoder.control_texts

    @cached_property
    def _added(self) -> SpecialTokens:
        return SpecialTokens({**self._encoder.added_texts, **self._encoder.control_texts})

    def _surrounded(self, ids: list[int]) -> list[int]:
        prefix, suffix = list(self.roles.prefix), list(self.roles.suffix)
        if ids[: len(prefix)] != prefix:
            ids = prefix + ids
        if suffix and ids[-len(suffix) :] != suffix:
            ids += suffix
        return ids

    def _check(self, text: str, at_most: int | None) -> None:
        """Refuse a text that is too long or not valid Unicode: the encoders would say less about it."""
        if at_most is not None:
            self._require_short(text, at_most)
        require_unicode(text)

    def _require_short(self, text: str, at_most: int) -> None:
        if len(text) <= _SLACK * at_most:
            return
        if self._longest is None:
            self._longest = max(map(len, map(self.token_bytes, range(self.vocab_size))), default=1)
        if len(text) > _SLACK * at_most * max(self._longest, 1):
            raise PromptTooLongError(
                f"the text has {len(text):,} characters, which cannot be {at_most:,} tokens or "
                "fewer: shorten it, or load the model with a larger context"
            )

    def decode(self, ids: Iterable[int], *, skip_special: bool = True, start: bool = True) -> str:
        """Return the text of `ids`; broken UTF-8 becomes U+FFFD.

        `start=False`: the ids continue a text, so a leading space is kept.
        """
        stream = self.stream(skip_special=skip_special, start=start)
        return stream.push_all(ids) + stream.finish()

    def stream(self, *, skip_special: bool = True, start: bool = True) -> TextStream:
        """Return a decoder for tokens that come one by one; the options are those of `decode`."""
        hidden = self._hidden if skip_special else frozenset()
        return TextStream(self, hidden, start and self.roles.drops_space)

    def show(self, token_id: int) -> None:
        """Decode this special token as text from now on: it tells a tool call from plain text."""
        self._hidden -= {token_id}

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes of a token; ids that the vocabulary lacks (padding rows) have none."""
        found = self._spelled.get(token_id)
        if found is None:
            known = 0 <= token_id < self.vocab_size
            found = self._spelled[token_id] = self._spell(token_id) if known else b""
        return found

    def token_text(self, token_id: int) -> str | None:
        """Return the text of a token, or None if its bytes are not whole characters."""
        if token_id not in self._texts:
            try:
                self._texts[token_id] = self.token_bytes(token_id).decode()
            except UnicodeDecodeError:
                self._texts[token_id] = None
        return self._texts[token_id]


class TextStream:
    """Decoder of one answer: turns tokens into text as they come and holds back unfinished characters."""

    def __init__(self, tokenizer: Tokenizer, hidden: frozenset[int], drops_space: bool) -> None:
        self._tokenizer = tokenizer
        self._hidden = hidden
        self._drops_space = drops_space
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._holds = False  # whether the decoder holds bytes back

    def push(self, token_id: int) -> str:
        """Return the text that `token_id` completes, possibly none; O(bytes of the token)."""
        if token_id in self._hidden:
            return ""
        if not self._holds:
            text = self._tokenizer.token_text(token_id)
            if text is not None:  # nothing before it matters
                return self._trim(text) if self._drops_space else text
        text = self._decoder.decode(self._tokenizer.token_bytes(token_id))
        self._holds = bool(self._decoder.getstate()[0])
        return self._trim(text)

    def broken_off(self, token_id: int) -> int:
        """Return how many U+FFFD stand before the text of `token_id`, because it leaves a character unfinished."""
        pending = self._decoder.getstate()[0]
        spelled = self._tokenizer.token_bytes(token_id)
        if not pending or not spelled or token_id in self._hidden:
            return 0
        so_far = pending + spelled[:1]
        text = codecs.getincrementaldecoder("utf-8")("replace").decode(so_far)
        is_broken = text.startswith("\ufffd") and so_far != "\ufffd".encode()
        return len(pending.decode("utf-8", "replace")) if is_broken else 0

    def push_all(self, ids: Iterable[int]) -> str:
        """Return the text that these tokens complete."""
        return "".join(map(self.push, ids))

    def finish(self, cut: bool = False) -> str:
        """Return U+FFFD if a character was never finished, otherwise nothing.

        ``cut``: the tokens stop at a limit, so the text ends before the unfinished character instead.
        """
        return "" if cut else self._trim(self._decoder.decode(b"", final=True))

    def _trim(self, text: str) -> str:
        if self._drops_space and text:
            self._drops_space = False
            return text.removeprefix(" ")
        return text


def require_unicode(text: str) -> None:
    """Raise `RequestError` for a text with half a character, which UTF-8 cannot write."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RequestError(
            f"the text has a lone surrogate (half a character) at position {error.start}; "
            "send text that is valid Unicode"
        ) from None
