"""Files of dialogue state tracking: labelled dialogues in JSON, and trackers.

Owns both formats and their checks. Knows no learning. Invariants: nothing of a file is executed; its sizes are checked
before memory is taken; a tracker is written whole or not at all, and reads back to the same values.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from miaotui.apps.dialogue.schema import DialogueSchema, SlotKey
from miaotui.apps.dialogue.tagger import SpanTagger
from miaotui.apps.dialogue.tracker import MAX_TURNS, DialogueTracker, LabelledTurn
from miaotui.errors import RequestError
from miaotui.hub.files import write_whole

FORMAT = 1
MAX_DIALOGUES_BYTES = 256 << 20
MAX_TRACKER_BYTES = 256 << 20
_PARTS = ("about.npy", "weights.npy")


def read_dialogues(path: Path) -> tuple[DialogueSchema, list[list[LabelledTurn]]]:
    """Read ``{"slots": [...], "dialogues": [[{"message", "reply", "asked", "values"}]]}``.

    ``asked`` lists slots, and ``values`` has a text or a list of texts for each: a slot is ``name`` or ``domain/name``.
    Raises `RequestError`, which names the place of a fault.
    """
    raw = _read(path, MAX_DIALOGUES_BYTES)
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, Mapping) or not isinstance(value.get("dialogues"), Sequence):
        raise RequestError(f"{path}: expected an object with slots and dialogues")
    schema = DialogueSchema.from_json(value.get("slots"))
    dialogues = value["dialogues"]
    if sum(len(each) for each in dialogues if isinstance(each, Sequence)) > MAX_TURNS:
        raise RequestError(f"{path}: at most {MAX_TURNS:,} turns are learned from")
    return schema, [_dialogue(f"{path}: dialogues[{at}]", each, schema) for at, each in enumerate(dialogues)]


def _dialogue(where: str, rows: object, schema: DialogueSchema) -> list[LabelledTurn]:
    if not isinstance(rows, Sequence) or isinstance(rows, str):
        raise RequestError(f"{where} must be a list of turns")
    return [_turn(f"{where}[{at}]", row, schema) for at, row in enumerate(rows)]


def _turn(where: str, row: object, schema: DialogueSchema) -> LabelledTurn:
    if not isinstance(row, Mapping) or not isinstance(row.get("message"), str):
        raise RequestError(f"{where} must be an object with a message")
    asked, values, reply = row.get("asked", []), row.get("values", {}), row.get("reply", "")
    if not isinstance(asked, list) or not isinstance(values, Mapping) or not isinstance(reply, str):
        raise RequestError(f"{where}: asked must be a list, values an object and reply a text")
    found = dict[SlotKey, Sequence[str]]()
    for name, value in values.items():
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text for text in texts):
            raise RequestError(f"{where}: the value of {name!r} must be a text or a list of texts")
        found[_key(where, name, schema)] = texts
    return LabelledTurn(row["message"], found, tuple(_key(where, name, schema) for name in asked), reply)


def _key(where: str, name: object, schema: DialogueSchema) -> SlotKey:
    domain, _, rest = str(name).rpartition("/")
    if (domain, rest) not in schema.by_key:
        raise RequestError(f"{where}: there is no slot {name!r} among the slots")
    return domain, rest


def save_tracker(tracker: DialogueTracker, path: Path) -> None:
    """Write a tracker. Raises `CacheError` if that fails; the file that was there stays then."""
    tagger = tracker.tagger
    about = {
        "format": FORMAT,
        "slots": tracker.schema.to_json(),
        "labels": tagger.labels,
        "features": tagger.names,
        "aliases": tracker.aliases,
    }
    text = np.frombuffer(json.dumps(about, ensure_ascii=False).encode(), np.uint8)
    write_whole(path, "the tracker", lambda file: np.savez_compressed(file, about=text, weights=tagger.weights))


def load_tracker(path: Path) -> DialogueTracker:
    """Read a tracker. Raises `RequestError` for a file that is none."""
    raw = _read(path, MAX_TRACKER_BYTES)
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as parts:
            if sum(part.file_size for part in parts.infolist()) > MAX_TRACKER_BYTES:
                raise RequestError(f"{path} unpacks to more than {MAX_TRACKER_BYTES >> 20} MB: it is no tracker")
            text, weights = (np.load(io.BytesIO(parts.read(name)), allow_pickle=False) for name in _PARTS)
        about = json.loads(text.tobytes())
        return _tracker(path, about, weights)
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile, RecursionError) as error:
        raise RequestError(f"{path} is no tracker: make one with `miaotui support --dialogues`") from error


def _tracker(path: Path, about: Mapping[str, Any], weights: Any) -> DialogueTracker:
    if about["format"] != FORMAT:
        raise RequestError(f"{path} has format {about['format']}, this version reads {FORMAT}: learn it anew")
    schema = DialogueSchema.from_json(about["slots"])
    labels, names = [str(each) for each in about["labels"]], [str(each) for each in about["features"]]
    tags = 2 * len(labels) + 1
    if weights.dtype != np.float32 or weights.shape != (len(names) + tags, tags) or not np.isfinite(weights).all():
        raise RequestError(f"{path}: its weights do not fit its labels: learn it anew")
    tracker = DialogueTracker(schema, SpanTagger(labels, names, weights), dict(about["aliases"]))
    tracker.require_known(labels)
    return tracker


def _read(path: Path, most: int) -> bytes:
    try:
        if path.stat().st_size > most:
            raise RequestError(f"{path} has more than {most >> 20} MB")
        return path.read_bytes()
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror or error}") from error
