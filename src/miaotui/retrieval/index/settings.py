"""Settings of an index, fixed at its creation, and its place on disk.

Owns ``index.json``, names and folders. Knows nothing of the contents of partitions. Invariant: an index exists
exactly when its ``index.json`` does, which is written last; a name never leads out of miaotui's own folder.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from miaotui.config import Settings, cache_error, make_folder
from miaotui.errors import DocumentIndexError, IndexMissingError, RequestError
from miaotui.retrieval.index.schema import RANKED, WEIGHTS
from miaotui.retrieval.query.analysis import Analyzer

FORMATS = (1, 2, 3)  # 2: with vectors beside it, 3: encrypted; versions that know earlier ones alone refuse it
MAX_PARTITIONS = 64
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
INDEX_FILE = "index.json"


@dataclass(frozen=True)
class IndexSettings:
    """Settings that an index keeps from its creation on.

    ``passage_chars``: longer bodies are split at their structure; 0 never splits. ``remotes`` are URLs of indexes on
    other hosts that are searched along with it. Raises `RequestError`.
    """

    partitions: int = 1
    language: str = "english"
    passage_chars: int = 1_600
    weights: Mapping[str, float] = field(default_factory=lambda: dict(WEIGHTS))
    remotes: tuple[str, ...] = ()
    timeout_s: float = 2.0
    uid: str = field(default_factory=lambda: secrets.token_hex(4))
    sealed: bool = False  # whether its files are encrypted

    def __post_init__(self) -> None:
        Analyzer(self.language)
        if not 1 <= self.partitions <= MAX_PARTITIONS:
            raise RequestError(f"partitions must be 1 to {MAX_PARTITIONS}, not {self.partitions}")
        if self.passage_chars and not 200 <= self.passage_chars <= 100_000:
            raise RequestError(f"passage_chars must be 0 or 200 to 100000, not {self.passage_chars}")
        if not self.weights or not set(self.weights) <= set(RANKED):
            raise RequestError(f"weights are for {' and '.join(RANKED)}, not {dict(self.weights)}")
        if not all(0 < weight <= 100 for weight in self.weights.values()):
            raise RequestError("each weight must be above 0 and at most 100")
        if not 0 < self.timeout_s <= 600:
            raise RequestError(f"timeout_s must be above 0 and at most 600, not {self.timeout_s}")

    def folders(self, folder: Path) -> list[Path]:
        """Return the partitions' folders."""
        return [folder / f"partition-{number}" for number in range(self.partitions)]


def place(name: str | Path) -> Path:
    """Return the folder of an index: of that name in miaotui's folder, or where a path leads.

    A `Path`, or text with a separator in it, is a path. Raises `RequestError` for a name that is not letters, digits,
    dots, hyphens and underscores.
    """
    if isinstance(name, Path) or os.sep in name:
        return Path(name)
    return Settings.from_env().folder("indexes") / checked_name(name)


def checked_name(name: str) -> str:
    """Return ``name`` if it is valid; raises `RequestError` otherwise."""
    if not _NAME.fullmatch(name):
        raise RequestError(
            f"{name!r:.80} is no name for an index; use up to 64 letters, digits, dots, hyphens "
            "and underscores, beginning with a letter or digit"
        )
    return name


def lies_here(name: str) -> bool:
    """Return whether the folder ``name`` in the current folder holds an index, which is found as ``./name`` only."""
    return _NAME.fullmatch(name) is not None and (Path(name) / INDEX_FILE).is_file()


def names() -> list[str]:
    """Return the indexes in miaotui's folder, in order."""
    return names_in(Settings.from_env().folder("indexes"))


def names_in(root: Path) -> list[str]:
    """Return the indexes in a folder, in order."""
    found = (path.parent.name for path in root.glob(f"*/{INDEX_FILE}"))
    return sorted(name for name in found if _NAME.fullmatch(name))


def write_plan(folder: Path, plan: IndexSettings, make: Callable[[Path], None]) -> None:
    """Make an index's partitions, then its file; raises `RequestError` when there is one."""
    if (folder / INDEX_FILE).exists():
        raise RequestError(f"there is an index in {folder} already. Choose another name")
    make_folder(folder)
    for path in plan.folders(folder):
        if (path / "meta.json").exists() or (path / "manifest.sealed").exists():
            continue  # of a creation that was interrupted, hence empty
        make(path)
    write_settings(folder, plan)


def write_settings(folder: Path, plan: IndexSettings) -> None:
    """Write the file that makes a folder an index. Raises `CacheError`."""
    values = asdict(plan)
    sealed = values.pop("sealed")
    _write(folder, {"format": FORMATS[-1], **values, "sealed": True} if sealed else {"format": FORMATS[0], **values})


def raise_format(folder: Path, wanted: int) -> None:
    """Upgrade the index in ``folder`` to a format in place; nothing changes if it has that or a later one."""
    value = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))
    if value["format"] < wanted:
        _write(folder, {**value, "format": wanted})


def _write(folder: Path, value: Mapping[str, object]) -> None:
    part = folder / f"{INDEX_FILE}.part"
    try:
        part.write_text(json.dumps(value, indent=1), encoding="utf-8")
        os.replace(part, folder / INDEX_FILE)
    except OSError as error:
        raise cache_error(error, folder) from error


def remove_index(folder: Path) -> None:
    """Delete an index with all its files; from the first moment on there is none of that name.

    Raises `CacheError`.
    """
    for leftover in folder.parent.glob(".*.deleted"):  # of a deletion that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    away = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.deleted")
    try:
        os.replace(folder, away)
        shutil.rmtree(away)
    except OSError as error:
        raise cache_error(error, folder) from error


def read_plan(folder: Path) -> IndexSettings:
    """Return the plan of the index in ``folder``; raises `IndexMissingError`, or `DocumentIndexError` when its file
    is damaged or of a later format.
    """
    try:
        value = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        here = lies_here(folder.name) and Path(folder.name).absolute() != folder.absolute()
        hint = (
            f"The folder {os.curdir}{os.sep}{folder.name} here is one: write {os.curdir}{os.sep}{folder.name}"
            if here
            else f"Create it: miaotui index create {folder.name}"
        )
        raise IndexMissingError(f"there is no index {folder.name!r} in {folder.parent}. {hint}") from error
    except (OSError, ValueError) as error:
        raise DocumentIndexError(f"{folder / INDEX_FILE} cannot be read: {error}") from error
    try:
        if value.pop("format") not in FORMATS:
            raise DocumentIndexError(f"the index in {folder} was made by a later miaotui. Update miaotui")
        return IndexSettings(**{**value, "remotes": tuple(value.get("remotes", ()))})
    except (TypeError, KeyError, AttributeError, RequestError) as error:
        raise DocumentIndexError(f"{folder / INDEX_FILE} is damaged: {error}") from error
