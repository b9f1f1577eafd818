"""Restoring masked tokens in parallel: block by block, several tokens in each pass.

Owns the loop: propose a token for each mask of the block, accept some, mask the others again. Knows passes, neither
text nor threads. Follows LLaDA's semi-autoregressive decoding (Nie et al., 2025, section 2.4) and Fast-dLLM.
Invariants: a token that was accepted never changes; a draw depends on the seed and the position alone, so that a cache
that is exact changes no token; a block is left when it has no mask.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from miaotui.backends.backend import Sampling
from miaotui.backends.sampling import Distribution, noise_key
from miaotui.dmlm.decoding.acceptance import Acceptance
from miaotui.dmlm.decoding.passes import TextPasses
from miaotui.errors import EngineError, RequestError
from miaotui.model.masked import MaskedConfig

Floats = NDArray[np.float32]
BLOCK = 32  # positions, where the model itself has no blocks
MAX_TOKENS = 128  # of an answer, unless a caller asks for more


@dataclass(frozen=True)
class DecodeOptions:
    """Options of one answer; ``max_tokens`` None: 128, or what fits.

    ``block`` positions are restored before the next ones are begun; a model with blocks of its own keeps to these.
    ``temperature`` 0 takes the likeliest token; ``top_k``, ``top_p``, ``min_p`` and ``seed`` are those of
    `SamplingParams`. ``prefix_cache`` takes what lies before a block as the block's first
    pass left it, which is faster and lossy where positions all see each other, and exact otherwise.
    """

    max_tokens: int | None = None
    block: int = BLOCK
    acceptance: Acceptance = field(default_factory=Acceptance)
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    prefix_cache: bool = False

    def __post_init__(self) -> None:
        if (self.max_tokens is not None and self.max_tokens < 1) or self.block < 1:
            raise RequestError("max_tokens and block must be at least 1")
        if not self.temperature >= 0:
            raise RequestError(f"temperature must be 0 or more, not {self.temperature!r}")
        if self.top_k < 0 or not 0 < self.top_p <= 1 or not 0 <= self.min_p <= 1:
            raise RequestError("top_k must be 0 or more, top_p over 0 and at most 1, min_p from 0 to 1")


class DecodedPass(NamedTuple):
    """State after a pass: the whole text with its masks, and how many tokens of the answer are final from its start."""

    tokens: list[int]
    final: int


def decode(
    passes: TextPasses, masked: MaskedConfig, prompt: Sequence[int], options: DecodeOptions, ends: Collection[int] = ()
) -> Iterator[DecodedPass]:
    """Write an answer after ``prompt``; yields after each pass, and stops behind a block with a token of ``ends``.

    Raises `RequestError` for an empty prompt of a model whose logits are shifted, and `PromptTooLongError`.
    """
    if masked.shifted and not prompt:
        raise RequestError("the prompt must have a token: this model predicts each token from the one before it")
    start = len(prompt)
    n = options.max_tokens or max(min(MAX_TOKENS, passes.most_tokens - start), 1)
    stop, tokens = start + n, [*prompt, *[masked.mask_id] * n]
    block = masked.block or options.block
    passes.begin()
    at = start
    while at < stop:
        # blocks of the model lie at multiples of their length; others are counted from the answer's beginning
        end = min((at // block + 1) * block, stop) if masked.block else min(at + block, stop)
        yield from _restore(passes, masked, tokens, (at, end), options, start)
        found = next((place for place in range(at, end) if tokens[place] in ends), None)
        if found is not None:
            return
        at = end


def restore(
    passes: TextPasses, masked: MaskedConfig, tokens: Sequence[int], options: DecodeOptions
) -> Iterator[DecodedPass]:
    """Restore all masks of a text, wherever they are; yields after each pass."""
    text = list(tokens)
    passes.begin()
    block = masked.block or len(text)
    for at in range(0, len(text), block):
        end = min(at + block, len(text))
        if masked.mask_id in text[at:end]:
            yield from _restore(passes, masked, text, (at, end), options, 0)


def _restore(
    passes: TextPasses,
    masked: MaskedConfig,
    tokens: list[int],
    span: tuple[int, int],
    options: DecodeOptions,
    start: int,
) -> Iterator[DecodedPass]:
    """Restore the masks of one block in place."""
    at, end = span
    keep = 0
    while places := [place for place in range(at, end) if tokens[place] == masked.mask_id]:
        text = tokens if not masked.block else tokens[:end]
        rows = passes.logits(text, places[0], places[-1] + 1, keep)
        wanted = rows[[place - places[0] for place in places]]
        found, confidences = propose(wanted, places, masked.mask_id, options, passes.sampling)
        for place, token, stays in zip(places, found, options.acceptance.accepted(confidences), strict=True):
            if stays:
                tokens[place] = token
        keep = max(at - 1, 0) if options.prefix_cache else 0
        final = next((place for place in range(at, end) if tokens[place] == masked.mask_id), end)
        yield DecodedPass(list(tokens), final - start)


def propose(
    logits: Floats, places: Sequence[int], mask_id: int, options: DecodeOptions, sampling: Sampling
) -> tuple[list[int], NDArray[np.float64]]:
    """Choose a token for each place from its logits ``[m, vocab]``; returns them with their probabilities ``[m]``.

    The mask token is never chosen. With a temperature the choice is the draw of plain decoding at the token's position
    (`backends.sampling`), and the confidence is the probability before temperature, as in LLaDA. Each row is a matter
    of its own: what is chosen for it does not depend on the others. Raises `EngineError` for logits
    that are no numbers.
    """
    shape = None
    if options.temperature > 0 and options.top_k != 1:
        shape = Distribution.of(options.temperature, options.top_k, options.top_p, options.min_p)
    found, confidences = [], np.empty(len(logits))
    for index, place in enumerate(places):
        row = np.ascontiguousarray(logits[index])
        row[mask_id] = -np.inf
        token = int(row.argmax())
        peak = float(row[token])
        if not math.isfinite(peak):
            raise EngineError("the model's logits are not numbers: its weights are damaged; get it again")
        if shape is not None:
            token = sampling.draw(row.copy(), peak, shape, noise_key(options.seed, place))
        found.append(token)
        confidences[index] = math.exp(float(row[token]) - peak - sampling.log_total(row, peak))
    return found, confidences
