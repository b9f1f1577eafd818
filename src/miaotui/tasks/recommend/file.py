"""Recommenders as files: one `.npz` of arrays and one JSON text, which nothing executes.

Owns the format and its checks. Knows no encoder. Invariant: a recommender that was loaded gives the answers that the
saved one gave; a file that does not fit itself, or is of another version, is refused whole.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miaotui.config import Settings
from miaotui.encoder import Encoder
from miaotui.errors import FieldError, ModelFormatError, ModelNotFoundError
from miaotui.hub.files import write_whole
from miaotui.hub.formats.untrusted_json import parse_object
from miaotui.retrieval.index.settings import checked_name
from miaotui.tasks.recommend.collaborative import EaseModel, ItemNeighbours
from miaotui.tasks.recommend.log import MAX_EVENTS, EventLog
from miaotui.tasks.recommend.parts import PARTS, ItemVectors, Parts
from miaotui.tasks.recommend.recommender import Fitted, Recommender

FORMAT, VERSION = "miaotui-recommender", 1
MAX_BYTES = 4 << 30  # of all arrays
MAX_TEXT_BYTES = 1 << 30  # of names and texts
_ARRAYS = {
    "user": "<i4",
    "item": "<i4",
    "time_s": "<f8",
    "weight": "<f4",
    "directions": "<f4",
    "gains": "<f4",
    "scale": "<f4",
    "places": "<i4",
    "cosines": "<f4",
    "popular": "<f4",
    "recent": "<f4",
    "vectors": "<f2",
    "mean": "<f4",
    "about": "|u1",
}


def place_of(name: str) -> Path:
    """Return the file of a recommender: of that name in miaotui's folder, or where a path leads.

    Raises `RequestError` for a name that is not letters, digits, dots, hyphens and underscores.
    """
    if os.sep in name or name.endswith(".npz"):
        return Path(name)
    return Settings.from_env().folder("recommenders") / f"{checked_name(name)}.npz"


def save_recommender(recommender: Recommender, path: str | os.PathLike[str]) -> None:
    """Write a recommender to a file, whole or not at all. Raises `CacheError`."""
    place = Path(path)
    arrays: dict[str, Any] = _arrays(recommender.fitted)
    write_whole(place, "the recommender", lambda file: np.savez_compressed(file, **arrays))


def load_recommender(path: str | os.PathLike[str], encoder: Encoder | None = None) -> Recommender:
    """Read a recommender; ``encoder`` reads intents. Raises `ModelNotFoundError` and `ModelFormatError`."""
    place = Path(path)
    try:
        fitted = _fitted(_read_arrays(place), str(place))
    except OSError as error:
        raise ModelNotFoundError(f"the recommender {place} cannot be read: {error}") from error
    except (FieldError, KeyError, TypeError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        raise ModelFormatError(f"{place} is no recommender: {error}; save it again") from error
    if encoder is not None and fitted.encoder and encoder.model.path.name != fitted.encoder:
        raise FieldError("encoder", f"{place} was made with {fitted.encoder}, not with {encoder.model.path.name}")
    return Recommender(fitted, encoder)


def _arrays(fitted: Fitted) -> dict[str, NDArray[Any]]:
    log, parts, vectors = fitted.log, fitted.parts, fitted.parts.vectors
    about = {
        "format": FORMAT,
        "version": VERSION,
        "parts": list(PARTS),
        "weights": list(fitted.weights),
        "penalty": fitted.penalty,
        "learned": fitted.learned,
        "encoder": fitted.encoder,
        "users": log.users,
        "items": log.items,
        "texts": fitted.texts,
    }
    values = {
        "user": log.user,
        "item": log.item,
        "time_s": log.time_s,
        "weight": log.weight,
        "directions": parts.ease.directions,
        "gains": parts.ease.gains,
        "scale": parts.ease.scale,
        "places": parts.neighbours.places,
        "cosines": parts.neighbours.cosines,
        "popular": parts.popular,
        "recent": parts.recent,
        "vectors": np.zeros((0, 0), np.float16) if vectors is None else vectors.values,
        "mean": np.zeros(0, np.float32) if vectors is None else vectors.mean,
        "about": np.frombuffer(json.dumps(about, ensure_ascii=False).encode(), np.uint8),
    }
    return {name: np.ascontiguousarray(values[name], kind) for name, kind in _ARRAYS.items()}


def _read_arrays(place: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of a file, of the kinds that are expected; sizes are looked at before memory is taken."""
    with zipfile.ZipFile(place) as archive:
        sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
    if set(sizes) != {f"{name}.npy" for name in _ARRAYS}:
        raise ValueError("expected the arrays of a recommender")
    if sum(sizes.values()) > MAX_BYTES or sizes["about.npy"] > MAX_TEXT_BYTES:
        raise ValueError(f"its arrays have more than {MAX_BYTES:,} bytes, or its names more than {MAX_TEXT_BYTES:,}")
    with np.load(place, allow_pickle=False) as read:
        arrays = {name: read[name] for name in _ARRAYS}
    for name, kind in _ARRAYS.items():
        if arrays[name].dtype != np.dtype(kind):
            raise ValueError(f"{name} has numbers of type {arrays[name].dtype}, not {np.dtype(kind)}")
        if arrays[name].dtype.kind == "f" and not np.isfinite(arrays[name]).all():
            raise ValueError(f"{name} has numbers that are not finite")
    return arrays


def _fitted(arrays: Mapping[str, NDArray[Any]], label: str) -> Fitted:
    about = parse_object(arrays["about"].tobytes(), label)
    if about["format"] != FORMAT or about["version"] != VERSION or about["parts"] != list(PARTS):
        raise ValueError(f"expected format {FORMAT} of version {VERSION}, found {about['version']!r:.20}")
    users, items, texts = (_names(about[name]) for name in ("users", "items", "texts"))
    _check_sizes(arrays, len(users), len(items), len(texts))
    weights = tuple(float(each) for each in about["weights"])
    if len(weights) != len(PARTS) or not np.isfinite(weights).all():
        raise ValueError(f"expected {len(PARTS)} weights")
    log = EventLog(users, items, arrays["user"], arrays["item"], arrays["time_s"], arrays["weight"])
    vectors = ItemVectors(arrays["vectors"].astype(np.float32), arrays["mean"]) if len(arrays["mean"]) else None
    parts = Parts(
        EaseModel(arrays["directions"], arrays["gains"], arrays["scale"]),
        ItemNeighbours(arrays["places"], arrays["cosines"]),
        arrays["popular"],
        arrays["recent"],
        vectors,
    )
    return Fitted(log, parts, weights, float(about["penalty"]), bool(about["learned"]), texts, str(about["encoder"]))


def _names(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(each, str) for each in values):
        raise TypeError("users, items and texts must be lists of texts")
    return tuple(values)


def _check_sizes(arrays: Mapping[str, NDArray[Any]], users: int, items: int, texts: int) -> None:
    """Raise `ValueError` where arrays do not fit each other, or a number names no user or item."""
    events = len(arrays["user"])
    shapes = {
        **dict.fromkeys(("user", "item", "time_s", "weight"), (events,)),
        "directions": (items, len(arrays["gains"])),
        "scale": (items,),
        "places": (items, *arrays["cosines"].shape[1:]),
        "cosines": (items, *arrays["places"].shape[1:]),
        "popular": (items,),
        "recent": (items,),
        "vectors": (items if len(arrays["mean"]) else 0, len(arrays["mean"])),
    }
    wrong = [name for name, shape in shapes.items() if arrays[name].shape != shape]
    if texts != items or not 1 <= events <= MAX_EVENTS:
        wrong.append("texts" if texts != items else "user")
    for name, count in (("user", users), ("item", items), ("places", items)):
        if arrays[name].size and (arrays[name].min() < 0 or arrays[name].max() >= count):
            wrong.append(name)
    if not np.all(arrays["scale"] > 0) or not np.all(arrays["weight"] > 0) or np.any(np.diff(arrays["time_s"]) < 0):
        wrong.append("scale, weight or time_s")
    if wrong:
        raise ValueError(f"its numbers do not fit each other: {', '.join(wrong)}")
