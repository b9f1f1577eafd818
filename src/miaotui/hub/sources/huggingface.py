"""Models in Hugging Face repositories: their ids, which files are needed, and what is here already.

Owns the choice of files: the configuration, the tokenizer, and either safetensors weights or one
GGUF file; never pickled weights and never code. What other programs have put into the shared cache
is found by its documented layout (``models--owner--name/refs`` and ``/snapshots``), without a
connection and without importing ``huggingface_hub``. It does not download (`huggingface_pull`
does). Invariant: a local copy counts only when all files chosen, shards included, are there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from miaotui.errors import ModelError, ModelNotFoundError, UnsupportedModelError
from miaotui.hub.formats.untrusted_json import read_object

CONFIG = "config.json"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
COMPANIONS = frozenset(
    {
        CONFIG,
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "tokenizer.model",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "merges.txt",
        "chat_template.jinja",
        "chat_template.json",
        "vocab.txt",
        "modules.json",
        "sentence_bert_config.json",
        "config_sentence_transformers.json",
    }
)
_MODULE = re.compile(r"\d+_[A-Za-z]+/(config\.json|model\.safetensors)")  # of a sentence-transformers folder
GGUF_PREFERENCE = ("Q4_0", "Q4_1", "Q4_K_M", "Q8_0")

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_ID = re.compile(rf"(?P<repo>{_PART}/{_PART})(@(?P<revision>\w[\w./-]*))?(:(?P<file>[^:\\/][^:\\]*\.gguf))?")
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
_SPLIT_GGUF = re.compile(r"-\d{5}-of-\d{5}\.gguf", re.IGNORECASE)


@dataclass(frozen=True)
class HubId:
    """``owner/name``, optionally ``@revision`` and ``:file.gguf``."""

    repo: str
    revision: str = "main"
    file: str = ""

    @classmethod
    def parse(cls, text: str) -> HubId | None:
        """Return the id that ``text`` spells, or None when it is not of that form."""
        found = _ID.fullmatch(text)
        if found is None or ".." in text:
            return None
        return cls(found["repo"], found["revision"] or "main", found["file"] or "")

    def __str__(self) -> str:
        revision = "" if self.revision == "main" else f"@{self.revision}"
        return f"{self.repo}{revision}{':' if self.file else ''}{self.file}"


def choose_files(names: Iterable[str], hub_id: HubId) -> tuple[str, ...]:
    """Return the files of a repository that are needed, the weights last; one name: a GGUF file.

    Raises `ModelNotFoundError` when the wanted file is not there or the choice is open (listing the
    choices), `UnsupportedModelError` when there are no weights in a safe format.
    """
    present = set(names)
    ggufs = sorted(name for name in present if name.lower().endswith(".gguf"))
    if hub_id.file:
        if hub_id.file in present:
            return (hub_id.file,)
        raise ModelNotFoundError(
            f"{hub_id.repo} has no file {hub_id.file}. "
            f"Name one of its GGUF files: {', '.join(ggufs) or 'there are none'}"
        )
    weights = _safetensors(present)
    if weights and CONFIG in present:
        modules = {name for name in present if _MODULE.fullmatch(name)}
        return (*sorted(COMPANIONS & present | modules), *weights)
    return (_one_gguf(ggufs, hub_id),)


def find_local(hub_id: HubId) -> Path | None:
    """Return the folder or GGUF file of ``hub_id`` in the shared cache; None if it is not all there."""
    folder = cache_folder() / f"models--{hub_id.repo.replace('/', '--')}"
    try:
        commit = (folder / "refs" / hub_id.revision).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        commit = hub_id.revision
    if re.fullmatch(r"\w+", commit) is None:
        return None
    snapshot = folder / "snapshots" / commit
    try:
        names = [p.relative_to(snapshot).as_posix() for p in snapshot.rglob("*") if p.is_file()]
        chosen = choose_files(names, hub_id)
        shards = shards_of(snapshot) if INDEX in chosen else frozenset()
    except (OSError, ModelError):
        return None
    return located(snapshot, chosen) if shards <= set(chosen) else None


def shards_of(folder: Path) -> frozenset[str]:
    """Return the files that the index in ``folder`` spreads the weights over; raises `ModelError`."""
    places = read_object(folder / INDEX).get("weight_map")
    return frozenset(map(str, places.values())) if isinstance(places, dict) else frozenset()


def located(snapshot: Path, chosen: tuple[str, ...]) -> Path:
    """Return the model's path in its snapshot: the one GGUF file, or the folder of all files."""
    return snapshot / chosen[0] if len(chosen) == 1 else snapshot


def cache_folder() -> Path:
    """Return the cache shared by all users of ``huggingface_hub``, by the variables it documents."""
    env = os.environ
    if hub := env.get("HF_HUB_CACHE"):
        return Path(hub).expanduser()
    if home := env.get("HF_HOME"):
        return Path(home).expanduser() / "hub"
    base = env.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "huggingface" / "hub"


def _safetensors(present: set[str]) -> tuple[str, ...]:
    """Return the weights in the repository's root: one file, or an index and its shards."""
    if SINGLE in present:
        return (SINGLE,)
    shards = sorted(name for name in present if _SHARD.fullmatch(name))
    if INDEX in present and shards:
        return (INDEX, *shards)
    single = [name for name in present if name.endswith(".safetensors") and "/" not in name]
    return tuple(single) if len(single) == 1 else ()


def _one_gguf(ggufs: list[str], hub_id: HubId) -> str:
    """Return the GGUF file to use: the only one, or the only one of the most preferred format."""
    whole = [name for name in ggufs if not _SPLIT_GGUF.search(name)]
    if not whole:
        raise UnsupportedModelError(
            f"{hub_id.repo} has no weights that can be used: expected {CONFIG} with {SINGLE}, "
            "or a GGUF file in one piece. Pickled weights (.bin, .pt) are never loaded, because "
            "they can run code. "
            "Choose a repository with safetensors or GGUF files"
        )
    for kind in GGUF_PREFERENCE:
        pattern = re.compile(rf"(^|[-._/]){kind}(?=[-.])", re.IGNORECASE)
        matching = [name for name in whole if pattern.search(name)]
        if len(matching) == 1:
            return matching[0]
        if matching:
            whole = matching
            break
    if len(whole) == 1:
        return whole[0]
    raise ModelNotFoundError(f"{hub_id.repo} has several GGUF files: {', '.join(whole)}. Name one: {hub_id}:{whole[0]}")
