"""Report card of an optimised file: what it cost, by which texts that was measured, and every choice.

Owns the form of the JSON beside a file and the statistics in it. Knows no method. Invariant: a card names the digest
of the file that it is about; one that is about other bytes is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miaotui.errors import ModelFormatError, ModelNotFoundError
from miaotui.hub.files import write_whole
from miaotui.hub.formats.untrusted_json import read_object
from miaotui.optimize.layerwise import Divergence
from miaotui.optimize.source import file_digest

FORM = 1
SUFFIX = ".card.json"
RESAMPLES = 2000
SEED = 20_261


@dataclass(frozen=True)
class QualityLoss:
    """Distance of a file's distributions from the original's, over the test texts. ``mean_kl`` and others in nats.

    ``mean_kl_low`` and ``mean_kl_high`` bound the mean over other texts of this kind in 95 of 100 cases (bootstrap over
    texts, since positions of one text are alike).
    """

    mean_kl: float
    mean_kl_low: float
    mean_kl_high: float
    p99_kl: float
    p99_9_kl: float
    same_top: float
    perplexity: float
    perplexity_of_source: float
    positions: int
    texts: int
    questions: int = 0  # of `texts.choices`; ``flips`` of them are answered otherwise than by the original
    flips: int = 0
    right: int = 0
    right_of_source: int = 0


def quality_loss(found: Divergence) -> QualityLoss:
    """Summarise a comparison of an original (first) and a file (second)."""
    low, high = _interval(found.kl, found.starts)
    return QualityLoss(
        mean_kl=float(found.kl.mean()),
        mean_kl_low=low,
        mean_kl_high=high,
        p99_kl=float(np.quantile(found.kl, 0.99)),
        p99_9_kl=float(np.quantile(found.kl, 0.999)),
        same_top=float(found.same_top.mean()),
        perplexity=float(np.exp(np.nanmean(found.other_surprise))),
        perplexity_of_source=float(np.exp(np.nanmean(found.surprise))),
        positions=len(found.kl),
        texts=len(found.starts),
    )


def _interval(kl: NDArray[np.float64], starts: NDArray[np.int64]) -> tuple[float, float]:
    sums = np.add.reduceat(kl, starts)
    counts = np.diff([*starts, len(kl)])
    picks = np.random.default_rng(SEED).integers(0, len(starts), (RESAMPLES, len(starts)))
    means = sums[picks].sum(1) / counts[picks].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


@dataclass(frozen=True)
class ReportCard:
    """Facts of an optimised file; all values are JSON's.

    ``choices`` has each matrix's type, ``front`` what other sizes were predicted and measured to lose.
    """

    file: Mapping[str, Any]
    source: Mapping[str, Any]
    wanted: Mapping[str, Any]
    quality: Mapping[str, Any]
    texts: Mapping[str, Any]
    speed: Mapping[str, Any] | None
    predicted: Mapping[str, Any]
    measured_candidates: int
    seconds: Mapping[str, float]
    choices: Mapping[str, str]
    front: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    changes: Mapping[str, Any] | None = None  # beside types: layers left out, what was learned, what it was set against
    form: int = FORM


def card_path(file: Path) -> Path:
    """Return where the card of a file lies."""
    return file.with_name(file.name + SUFFIX)


def write_card(file: Path, card: ReportCard) -> Path:
    """Write a card beside its file; return its path. Raises `CacheError`."""
    path, text = card_path(file), json.dumps(asdict(card), indent=1, ensure_ascii=False, allow_nan=False)
    write_whole(path, "the report card", lambda stream: stream.write(text.encode() + b"\n"))
    return path


def read_card(file: Path) -> ReportCard:
    """Read the card of ``file``, or the card at ``file``, and check that it is about the file beside it.

    Raises `ModelNotFoundError` where there is none, `ModelFormatError` for one that is damaged or about other bytes.
    """
    path = file if file.name.endswith(SUFFIX) else card_path(file)
    if not path.is_file():
        raise ModelNotFoundError(
            f"{file} has no report card ({path.name}): `miaotui optimize` writes one beside its file"
        )
    values = read_object(path)
    try:
        if values["form"] != FORM:
            raise ModelFormatError(
                f"{path} is a card of form {values['form']}, and {FORM} is known: use a newer miaotui"
            )
        values["notes"] = tuple(values["notes"])
        card = ReportCard(**values)
        digest = card.file["sha256"]
    except (KeyError, TypeError) as error:
        raise ModelFormatError(
            f"{path} is no report card: {error}. Make the file again with miaotui optimize"
        ) from error
    model = path.with_name(path.name.removesuffix(SUFFIX))
    if model.is_file() and file_digest(model) != digest:
        raise ModelFormatError(f"{path} is about another file than {model.name}: make it again with miaotui optimize")
    return card
