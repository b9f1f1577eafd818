"""Constraint of answers that begin with a thought: a budget of tokens for it, and a grammar for the answer after it.

Owns the place of one answer: before the thought, in it, at its forced end, behind it. Knows token ids and the bytes
that they spell, no wire format. Invariant: a thought longer than its budget is closed by the marker's own tokens as
soon as its text is whole UTF-8, so that tokens are left for an answer; without a budget the thought is free.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from miaotui.engine.constraint import Constraint
from miaotui.text.reasoning import ReasoningFormat
from miaotui.text.tokenizers.tokenizer import Tokenizer

_MOST_SPLIT = 3  # bytes of an unfinished character


@dataclass(frozen=True)
class ReasoningTokens:
    """Markers of a thought in one vocabulary of ``vocab_size`` ids."""

    begin: tuple[int, ...]  # of the begin marker; empty: thoughts are not looked for
    answer: tuple[int, ...]  # what begins an answer without a thought; empty: nothing does
    end: bytes
    closing: tuple[int, ...]  # tokens that end a thought
    vocab_size: int
    spell: Callable[[int], bytes]


class ReasoningConstraint:
    """Place of one answer in its thought (see `Constraint`).

    ``is_open``: the prompt ended inside a thought. ``budget`` bounds the thought in tokens, None: free. ``inner``
    constrains the answer behind it.
    """

    def __init__(
        self, tokens: ReasoningTokens, is_open: bool, budget: int | None = None, inner: Constraint | None = None
    ) -> None:
        self._tokens, self._budget, self._inner = tokens, budget, inner
        self.began_open = is_open
        self._words = np.zeros((tokens.vocab_size + 31) // 32, np.uint32)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._tail = b""
        self._spent = 0
        self._lead: tuple[int, ...] = ()  # tokens that may become a marker
        self._left: Sequence[int] = ()  # of the forced end
        self._state = self._thought if is_open else self._start
        if is_open and budget == 0:
            self._close()

    @property
    def parts(self) -> tuple[ReasoningTokens, int | None, Constraint | None]:
        """Return the markers, the budget and the constraint of the answer that it was made of."""
        return self._tokens, self._budget, self._inner

    @property
    def decides_end(self) -> bool:
        """Return whether it says where the answer ends."""
        return self._inner is not None and self._inner.decides_end

    def mask(self) -> NDArray[np.uint32] | None:
        """Return the tokens that may come next, a bit each; None when all may."""
        if self._left:
            return self._only(self._left[0])
        if self._state == self._start:
            return self._first_mask()
        if self._state == self._answer and self._inner is not None:
            return self._inner_words()
        return None

    def accept(self, token_id: int) -> None:
        """Note that the answer went on with ``token_id``."""
        self._state(token_id)

    def forced(self) -> Sequence[int]:
        """Return tokens that must come next: the rest of the forced end, or what the grammar forces."""
        if self._left:
            return list(self._left)
        if self._state == self._answer and self._inner is not None:
            return self._inner.forced()
        return []

    # states ---------------------------------------------------------------------------------------------------------

    def _start(self, token_id: int) -> None:
        lead = (*self._lead, token_id)
        if lead in (self._tokens.begin, self._tokens.answer):
            self._state = self._thought if lead == self._tokens.begin else self._answer
            if self._state == self._thought and self._budget == 0:
                self._close()
            return
        if self._markers(lead):
            self._lead = lead
            return
        if self._inner is None and not self._lead and not self._tokens.spell(token_id).strip():
            return  # blank space may stand before a thought
        self._state = self._answer
        for each in lead:
            self._answer(each)

    def _markers(self, lead: tuple[int, ...]) -> list[tuple[int, ...]]:
        """Return the markers that begin with ``lead`` and go on."""
        both = (self._tokens.begin, self._tokens.answer)
        return [marker for marker in both if marker[: len(lead)] == lead and len(marker) > len(lead)]

    def _thought(self, token_id: int) -> None:
        spelled = self._tokens.spell(token_id)
        self._spent += 1
        text = self._tail + spelled
        if text.find(self._tokens.end) >= 0:
            self._state = self._answer
            return
        self._tail = text[max(0, len(text) - len(self._tokens.end) + 1) :]
        self._decoder.decode(spelled)
        if self._budget is not None and self._spent >= self._budget:
            is_whole = not self._decoder.getstate()[0]
            if is_whole or self._spent >= self._budget + _MOST_SPLIT:
                self._close()

    def _closing(self, token_id: int) -> None:
        assert token_id == self._left[0], "the mask allows no other"
        self._left = self._left[1:]
        if not self._left:
            self._state = self._answer

    def _answer(self, token_id: int) -> None:
        if self._inner is not None:
            self._inner.accept(token_id)

    def _close(self) -> None:
        self._left, self._state = self._tokens.closing, self._closing

    # masks ----------------------------------------------------------------------------------------------------------

    def _only(self, token_id: int) -> NDArray[np.uint32]:
        self._words[:] = 0
        self._words[token_id // 32] = np.uint32(1 << token_id % 32)
        return self._words

    def _first_mask(self) -> NDArray[np.uint32] | None:
        """Return the grammar's mask of the first token, and tokens that begin a marker or go on with it."""
        if self._inner is None:
            return None
        allowed, markers = self._inner_words(), self._markers(self._lead)
        if allowed is None or not markers:
            return allowed
        self._words[:] = 0 if self._lead else allowed
        for marker in markers:
            token = marker[len(self._lead)]
            self._words[token // 32] |= np.uint32(1 << token % 32)
        return self._words

    def _inner_words(self) -> NDArray[np.uint32] | None:
        assert self._inner is not None, "asked only where there is a grammar"
        allowed = self._inner.mask()
        return None if allowed is None else allowed.view(np.uint32)


def reasoning_tokens(
    form: ReasoningFormat, tokenizer: Tokenizer, vocab_size: int, has_tools: bool = False
) -> ReasoningTokens:
    """Return a format's markers in a vocabulary.

    A marker of several tokens counts where an answer is messages in channels; with tools, whose calls are messages too,
    thoughts are not looked for there, and are free.
    """
    begin, answer = (tuple(tokenizer.encode(text, whole=False)) for text in (form.begin, form.answer))
    known = not has_tools if form.channels else len(begin) == 1
    return ReasoningTokens(
        begin if known else (),
        answer if known else (),
        form.end.encode(),
        tuple(tokenizer.encode(f"\n{form.end}\n\n", whole=False)),
        vocab_size,
        tokenizer.token_bytes,
    )


def with_reasoning(
    tokens: ReasoningTokens, is_open: bool, budget: int | None, inner: Callable[[], Constraint] | None
) -> Callable[[], Constraint]:
    """Return the maker of the constraint of one answer: a thought of at most ``budget`` tokens, then ``inner``."""
    return lambda: ReasoningConstraint(tokens, is_open, budget, None if inner is None else inner())
