"""Quality of a model's arithmetic: Kullback-Leibler divergence from float32, and how often the best token is the same.

Owns the stored base: for each place of one text the `KEPT` likeliest tokens of the same weights in float32 arithmetic
(the reference backend), with their log-probabilities. Knows no clocks. Invariants: a base is used only for the weights
and the tokens that it was made of; the divergence is that of the kept tokens and of one class for all others, which is
at most the divergence of the whole distributions (data processing inequality).
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miaotui.config import Settings, cache_error
from miaotui.errors import ModelNotFoundError, RequestError
from miaotui.hub.parts import part_paths

KEPT = 32  # tokens of each place
PLACES = 256  # of the text, at most
EDGE_BYTES = 1 << 20
MAX_BASE_BYTES = 16 << 20
SHIPPED = Path(__file__).parent / "bases"
TEXT = """\
A library lends more than books. In the morning an old man reads the newspaper by the window, two students share a \
table, and a mother looks for a story about a fox that her daughter heard at school. The librarian knows where it \
stands. She also knows that the roof leaks above the maps, and that the city will decide in March whether there is \
money to mend it. Water boils at 100 degrees Celsius at sea level; on a mountain of 3,000 metres it boils at about 90, \
so beans need longer there. def area(width, height): return width * height. The train from Lyon was late by twelve \
minutes, which nobody minded, because the sun had come out and the station's small cafe had fresh bread. If seven \
workers build a wall in six days, how long do three workers need? Each day's work is one forty-second of the wall for \
one worker, so three of them need fourteen days. 图书馆不只是借书的地方。早晨，老人在窗边看报，两个学生共用一张桌子。\
"""

Array = NDArray[np.float32]


@dataclass(frozen=True)
class QualityBase:
    """Likeliest tokens of a text in float32: ``ids`` and ``logprobs`` (nats) are ``[places, kept]``, best first."""

    tokens: tuple[int, ...]
    ids: NDArray[np.int64]
    logprobs: Array

    def __post_init__(self) -> None:
        shape = (len(self.tokens), self.ids.shape[-1] if self.ids.ndim == 2 else 0)
        if self.ids.shape != shape or self.logprobs.shape != shape or not self.tokens or not shape[1]:
            raise RequestError("the base of the quality is damaged: make it again with miaotui bench base")


@dataclass(frozen=True)
class ModelQuality:
    """Distance of a model's distributions from the base; ``kl_nats`` is a lower bound of the mean divergence."""

    kl_nats: float
    kl_p99_nats: float
    same_top: float  # share of places
    places: int

    def text(self) -> str:
        """Return one line for people."""
        return (
            f"quality: KL from float32 {self.kl_nats:.2g} nats (99% of places below {self.kl_p99_nats:.2g}), "
            f"same best token {100 * self.same_top:.1f}%, {self.places} places"
        )


NOT_MEASURED = "quality not measured: there is no base of these weights; miaotui bench base MODEL makes one"


def base_of(logits: Array, tokens: Sequence[int], kept: int = KEPT) -> QualityBase:
    """Return the base of a text from float32 logits ``[places, vocab]``."""
    logprobs = log_softmax(logits)
    kept = min(kept, logprobs.shape[1])
    order = np.argsort(-logprobs, axis=1, kind="stable")[:, :kept]
    return QualityBase(tuple(tokens), order.astype(np.int64), np.take_along_axis(logprobs, order, 1))


def quality_of(logits: Array, base: QualityBase) -> ModelQuality:
    """Compare logits ``[places, vocab]`` of the base's text with the base."""
    ours = log_softmax(logits)
    q = np.take_along_axis(ours, base.ids, 1).astype(np.float64)
    p = base.logprobs.astype(np.float64)
    rest_p = np.maximum(1 - np.exp(p).sum(1), 0.0)
    rest_q = np.maximum(1 - np.exp(q).sum(1), 1e-12)
    others = np.where(rest_p > 1e-9, rest_p * np.log(np.maximum(rest_p, 1e-12) / rest_q), 0.0)
    kl = np.maximum((np.exp(p) * (p - q)).sum(1) + others, 0.0)
    same = ours.argmax(1) == base.ids[:, 0]
    return ModelQuality(float(kl.mean()), float(np.quantile(kl, 0.99)), float(same.mean()), len(kl))


def log_softmax(logits: Array) -> Array:
    """Return log-probabilities in nats, computed in float64 row by row."""
    wide = logits.astype(np.float64)
    wide -= wide.max(1, keepdims=True)
    wide -= np.log(np.exp(wide).sum(1, keepdims=True))
    return wide.astype(np.float32)


def text_tokens(tokenizer: Any, context: int) -> tuple[int, ...]:
    """Return the tokens of `TEXT` that a base is made of."""
    return tuple(tokenizer.encode(TEXT)[: min(PLACES, context)])


def weights_digest(path: Path) -> str:
    """Return a digest of a model's files: of each its size and its first and last MiB. Raises `ModelNotFoundError`."""
    digest = hashlib.sha256()
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else list(part_paths(path))
    try:
        for file in files:
            size = file.stat().st_size
            digest.update(str(size).encode())
            with file.open("rb") as stream:
                digest.update(stream.read(EDGE_BYTES))
                stream.seek(max(size - EDGE_BYTES, 0))
                digest.update(stream.read(EDGE_BYTES))
    except OSError as error:
        raise ModelNotFoundError(f"cannot read the model at {path}: {error}. Check the path") from error
    return digest.hexdigest()[:16]


def stored_base(digest: str, tokens: Sequence[int], settings: Settings) -> QualityBase | None:
    """Return the base of these weights and tokens, made here or shipped; None if there is none."""
    for folder in (settings.cache_dir / "bench", SHIPPED):
        found = read_base(folder / f"{digest}.npz")
        if found is not None and found.tokens == tuple(tokens):
            return found
    return None


def read_base(path: Path) -> QualityBase | None:
    """Read a base; None if there is no file that can be read as one."""
    try:
        if path.stat().st_size > MAX_BASE_BYTES:
            return None
        with np.load(path, allow_pickle=False) as arrays:
            tokens, ids, logprobs = (arrays[name] for name in ("tokens", "ids", "logprobs"))
            return QualityBase(tuple(map(int, tokens)), ids.astype(np.int64), logprobs.astype(np.float32))
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile, RequestError):
        return None


def store_base(digest: str, base: QualityBase, settings: Settings) -> Path:
    """Write a base into the cache; return its path. Raises `CacheError`."""
    path = settings.folder("bench") / f"{digest}.npz"
    part = path.with_suffix(f".{os.getpid()}.part")
    small = np.uint16 if base.ids.max() < 1 << 16 else np.int32
    try:
        with part.open("wb") as file:
            tokens = np.array(base.tokens, np.int32)
            np.savez_compressed(file, tokens=tokens, ids=base.ids.astype(small), logprobs=base.logprobs)
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise cache_error(error, path) from error
    return path
