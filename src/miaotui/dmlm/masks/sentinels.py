"""Masked spans for an encoder-decoder: a sentinel stands for each span, and the decoder writes what was there.

The form is T5's (Raffel et al., "Exploring the Limits of Transfer Learning", 2020, section 3.1.4): the source has one
sentinel for each run of masked tokens; the target has each sentinel with the tokens of its run, and then the end.
Knows token ids alone; which tokens are masked is any `MaskRule`'s choice. Invariant: source and target together have
every token of the text, in order.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from miaotui.dmlm.masks.batch import Bools
from miaotui.errors import RequestError


@dataclass(frozen=True)
class SpanExample:
    """Token ids of an encoder's source and a decoder's target."""

    source: tuple[int, ...]
    target: tuple[int, ...]


def span_example(tokens: Sequence[int], chosen: Bools, sentinels: Sequence[int], end: int) -> SpanExample:
    """Return a text ``[n]`` whose ``chosen [n]`` tokens are masked as a source, and what is missing as its target.

    ``end`` closes both. Raises `RequestError` for a text without a mask, or with more spans than ``sentinels``.
    """
    masked = np.asarray(chosen, bool)
    if masked.shape != (len(tokens),):
        raise RequestError(f"{len(tokens)} tokens need as many masks, not {masked.size}")
    begins = np.flatnonzero(masked & ~np.concatenate([[False], masked[:-1]]))
    ends = np.flatnonzero(masked & ~np.concatenate([masked[1:], [False]])) + 1
    require_sentinels(len(begins), sentinels)
    source: list[int] = []
    target: list[int] = []
    after = 0
    for sentinel, first, last in zip(sentinels, begins.tolist(), ends.tolist(), strict=False):
        source += [*tokens[after:first], sentinel]
        target += [sentinel, *tokens[first:last]]
        after = last
    return SpanExample((*source, *tokens[after:], end), (*target, end))


def require_sentinels(spans: int, sentinels: Sequence[int]) -> None:
    """Raise `RequestError` for no span, a vocabulary without sentinels, and more spans than there are."""
    if not spans:
        raise RequestError("the text has no mask: nothing is missing in it")
    if not sentinels:
        raise RequestError("the model's vocabulary has no sentinels such as <extra_id_0>: it was not trained to fill")
    if spans > len(sentinels):
        raise RequestError(f"the text has {spans:,} masked spans, and the model {len(sentinels):,} sentinels: cut it")


def span_fills(target: Sequence[int], sentinels: Sequence[int], ends: Collection[int]) -> list[tuple[int, ...]]:
    """Return the tokens that a target has for each sentinel, up to an end; () for one that it has left out.

    A sentinel that comes out of its order ends the span before it and begins none.
    """
    fills: list[list[int]] = []
    is_open = False
    for token in target:
        if token in ends:
            break
        if token in sentinels:
            is_open = sentinels.index(token) >= len(fills)
            if is_open:
                fills += [[] for _ in range(sentinels.index(token) + 1 - len(fills))]
        elif is_open:
            fills[-1].append(token)
    return [tuple(each) for each in fills]
