"""Heads as files: one JSON object with its numbers in base64, which nothing executes.

Owns the format and its checks. Knows no encoder. Invariant: a head that was loaded gives the bytes of answers that
the saved one gave; a file that does not fit itself is refused whole.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miaotui.errors import FieldError, ModelFormatError, ModelNotFoundError
from miaotui.hub.files import write_whole
from miaotui.hub.formats.untrusted_json import parse_object
from miaotui.tasks.calibration import HIGHEST, LOWEST, CalibrationReport
from miaotui.tasks.heads.head import MAX_LABELS, ClassifierHead, check_labels
from miaotui.tasks.heads.kernel_ridge import KernelLayer
from miaotui.tasks.heads.logistic import Linear
from miaotui.tasks.heads.selection import Layer

FORMAT = "miaotui-classifier"
VERSION = 1
MAX_FILE_BYTES = 64 << 20
MAX_WIDTH = 1 << 14
_SOURCES = ("examples", "label names")


def save_head(head: ClassifierHead, path: str | os.PathLike[str]) -> None:
    """Write a head to a file, whole or not at all. Raises `CacheError`."""
    place = Path(path)
    content = json.dumps(_described(head), ensure_ascii=False, allow_nan=False)
    write_whole(place, "the head", lambda file: file.write(content.encode()))


def load_head(path: str | os.PathLike[str]) -> ClassifierHead:
    """Read a head. Raises `ModelNotFoundError`, and `ModelFormatError` for a file that is none or does not fit."""
    place = Path(path)
    try:
        with place.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ModelNotFoundError(f"the head {place} cannot be read: {error}") from error
    if len(content) > MAX_FILE_BYTES:
        raise ModelFormatError(f"{place} is longer than {MAX_FILE_BYTES:,} bytes, too long for a head")
    try:
        return _read(parse_object(content, str(place)))
    except (FieldError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelFormatError(f"{place} is no head of a classifier: {error}; save it again") from error


def _described(head: ClassifierHead) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "encoder": head.encoder,
        "prompt": head.prompt,
        "source": head.source,
        "labels": list(head.labels),
        "width": head.width,
        "temperature": head.temperature,
        "penalty": head.penalty,
        "held_out": None if head.held_out is None else asdict(head.held_out),
        "gamma": head.layer.gamma if isinstance(head.layer, KernelLayer) else None,
        "names": head.n_names,
        "name_weight": head.name_weight,
        "weights": _packed(head.layer.weights, "<f4"),
        "bias": _packed(head.layer.bias, "<f4"),
        "examples": _packed(head.vectors, "<f2"),
        "targets": _packed(head.targets, "<u2"),
    }


def _read(values: Mapping[str, Any]) -> ClassifierHead:
    if values["format"] != FORMAT or values["version"] != VERSION:
        raise ValueError(f"expected format {FORMAT} of version {VERSION}")
    labels, width = [*values["labels"]], values["width"]
    if not isinstance(width, int) or not 1 <= width <= MAX_WIDTH or len(labels) > MAX_LABELS:
        raise ValueError(f"width must be 1 to {MAX_WIDTH:,} and labels at most {MAX_LABELS:,}")
    check_labels(labels)
    targets = _unpacked(values["targets"], "<u2").astype(np.int64)
    examples = _unpacked(values["examples"], "<f2").astype(np.float32)
    vectors = _shaped(examples, len(targets), width)
    layer = _layer(values, vectors, len(labels))
    n_names = values["names"]
    if len(layer.bias) != len(labels) or (targets.size and targets.max() >= len(labels)):
        raise ValueError("its numbers do not fit its labels")
    if type(n_names) is not int or not 0 <= n_names <= len(targets):
        raise ValueError("names must be a number of its examples")
    if values["source"] not in _SOURCES:
        raise ValueError(f"source must be one of {', '.join(_SOURCES)}")
    held_out = values["held_out"]
    return ClassifierHead(
        labels=tuple(labels),
        layer=layer,
        temperature=_number(values["temperature"], LOWEST / 2, HIGHEST * 2),
        source=values["source"],
        encoder=_text(values["encoder"]),
        prompt=None if values["prompt"] is None else _text(values["prompt"]),
        vectors=vectors,
        targets=targets,
        penalty=_number(values["penalty"], 1e-9, 1e3),
        held_out=None if held_out is None else CalibrationReport(**held_out),
        n_names=n_names,
        name_weight=_number(values["name_weight"], 0.0, 1e3),
    )


def _layer(values: Mapping[str, Any], vectors: NDArray[np.float32], n_labels: int) -> Layer:
    """Return the layer: linear, or over the kept examples where the file has a ``gamma``."""
    weights, bias = _unpacked(values["weights"], "<f4"), _unpacked(values["bias"], "<f4").copy()
    if values["gamma"] is None:
        return Linear(_shaped(weights, n_labels, vectors.shape[1]), bias)
    gamma = _number(values["gamma"], 1e-3, 1e5)
    return KernelLayer(vectors, _shaped(weights, n_labels, len(vectors)), bias, gamma)


def _packed(array: NDArray[Any], kind: str) -> str:
    return base64.b64encode(np.ascontiguousarray(array, kind).tobytes()).decode()


def _unpacked(text: str, kind: str) -> NDArray[Any]:
    try:
        found: NDArray[Any] = np.frombuffer(base64.b64decode(text, validate=True), kind)
    except binascii.Error as error:
        raise ValueError(f"its numbers are no base64: {error}") from error
    if found.dtype.kind == "f" and not np.isfinite(found).all():
        raise ValueError("its numbers are not all finite")
    return found


def _shaped(array: NDArray[Any], rows: int, width: int) -> NDArray[np.float32]:
    if array.size != rows * width:
        raise ValueError(f"expected {rows} rows of {width} numbers, found {array.size} numbers")
    return np.array(array, np.float32).reshape(rows, width)


def _number(value: Any, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"expected a number, not {value!r}")
    if not low <= value <= high:
        raise ValueError(f"expected a number from {low} to {high}, not {value!r}")
    return float(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a text, not {value!r}")
    return value
