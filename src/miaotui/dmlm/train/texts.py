"""From text files to training batches: a tokenizer of their own, stretches of one length, units for masks.

Owns the split into training and held-out texts, which is by stretches of the corpus and the same in every run. Knows no
model. Invariants: no held-out text is trained on; a text's number, which its masks follow from, is its place in the
corpus. Sizes are bounded before memory is taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from miaotui.dmlm.masks.batch import TokenBatch
from miaotui.dmlm.masks.collocations import find_collocations
from miaotui.dmlm.masks.words import unit_numbers, word_spans
from miaotui.errors import RequestError
from miaotui.libraries import need
from miaotui.training.noise import Ints
from miaotui.training.texts import text_lines, train_tokenizer

MOST_BYTES = 256 << 20  # of all files: tokens and units take about six times that
EVERY = 20  # one text in so many is held out
LEAST_TEXTS = 40  # two held out
PAD, END, MASK = "<|pad|>", "<|endoftext|>", "<|mask|>"
SPECIALS = (PAD, END, MASK)
SENTINELS = tuple(f"<extra_id_{number}>" for number in range(64))  # T5's names, for an encoder-decoder


@dataclass(frozen=True)
class TextCorpus:
    """Texts ``[n, length]`` with their units, and the tokenizer; special tokens are ids 0 to 2."""

    tokenizer: Any  # of the tokenizers library
    tokens: Ints
    words: Ints
    collocations: Ints

    @property
    def vocab_size(self) -> int:
        """Return the number of token ids."""
        return int(self.tokenizer.get_vocab_size())

    @property
    def mask_id(self) -> int:
        """Return the mask token."""
        return SPECIALS.index(MASK)

    @property
    def held_out(self) -> Ints:
        """Return the numbers of the held-out texts."""
        held: Ints = np.arange(0, len(self.tokens), EVERY)
        return held

    @property
    def trained(self) -> Ints:
        """Return the numbers of the texts that are trained on."""
        numbers = np.arange(len(self.tokens))
        trained: Ints = numbers[numbers % EVERY != 0]
        return trained

    def batch(self, numbers: Ints) -> TokenBatch:
        """Return some texts, for masking."""
        tokens = self.tokens[numbers]
        return TokenBatch(tokens, tokens >= len(SPECIALS), numbers, self.words[numbers], self.collocations[numbers])

    def batches(self, numbers: Ints, size: int) -> Iterator[TokenBatch]:
        """Yield texts in their order."""
        for start in range(0, len(numbers), size):
            yield self.batch(numbers[start : start + size])


def read_corpus(
    paths: Sequence[Path], vocabulary: int, length: int, tokenizer: Any = None, sentinels: Sequence[str] = ()
) -> TextCorpus:
    """Read text files, in UTF-8. A ``tokenizer`` with ``sentinels`` is trained on them unless one is given.

    Raises `RequestError` for no file, files that are no text, and too little or too much text.
    """
    lines = [line for path in paths for line in text_lines(path, MOST_BYTES)]
    if sum(map(len, lines)) > MOST_BYTES:
        raise RequestError(f"the texts have more than {MOST_BYTES >> 20} MB: train on a part of them")
    if tokenizer is None:
        tokenizer = train_tokenizer(lines, vocabulary, (*SPECIALS, *sentinels))
    spans = [word_spans(line) for line in lines]
    common = find_collocations([line[a:b] for a, b in found] for line, found in zip(lines, spans, strict=True))
    tokens: list[Ints] = []
    words: list[Ints] = []
    joined: list[Ints] = []
    end = np.array([SPECIALS.index(END)])
    units = 0
    for line, found, encoded in zip(lines, spans, tokenizer.encode_batch(lines), strict=True):
        offsets = encoded.offsets
        tokens += [np.array(encoded.ids, np.int64), end]
        words += [unit_numbers(offsets, found) + units, np.zeros(1, np.int64)]
        joined += [unit_numbers(offsets, common.merged(line, found)) + units, np.zeros(1, np.int64)]
        units += len(encoded.ids) + 1
    count = sum(map(len, tokens)) // length
    if count < LEAST_TEXTS:
        raise RequestError(
            f"the texts have {sum(map(len, tokens)):,} tokens, and training needs at least {LEAST_TEXTS} texts of "
            f"{length}: give more text, or a smaller length"
        )
    cut = [np.concatenate(each)[: count * length].reshape(count, length) for each in (tokens, words, joined)]
    return TextCorpus(tokenizer, cut[0], cut[1], cut[2])


def load_tokenizer_text(text: str) -> Any:
    """Return a tokenizer from its JSON, as a checkpoint holds it."""
    return need("tokenizers").Tokenizer.from_str(text)
