"""Models in repositories of a hub: their ids, and which of their files are needed.

Owns the choice of files: the configuration, the tokenizer, and either safetensors weights or one GGUF model, in one
file or in parts; never pickled weights and never code. It does not know which hub has the repository (`huggingface`,
`modelscope`) and downloads nothing. Invariant: a choice that is open is refused with the names to choose from.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from miaotui.errors import ModelError, ModelNotFoundError, UnsupportedModelError
from miaotui.hub.formats.untrusted_json import read_object
from miaotui.hub.parts import first_parts, parts_of_name

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
GGUF_PREFERENCE = ("Q4_0", "Q4_1", "Q4_K_M", "Q8_0")
MAX_NAMED = 40  # files in a message

_MODULE = re.compile(r"\d+_[A-Za-z]+/(config\.json|model\.safetensors)")  # of a sentence-transformers folder
_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_QUANT = r"(?:UD-)?(?:I?Q\d\w{0,12}|TQ\d_\d|MXFP4\w{0,8}|BF16|FP?16|FP?32)"
_ID = re.compile(
    rf"(?P<repo>{_PART}/{_PART})(@(?P<revision>\w[\w./-]*))?(:((?P<file>[^:\\/][^:\\]*\.gguf)|(?P<quant>(?i:{_QUANT}))))?"
)
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
_IN_NAME = re.compile(rf"(?:^|[-._/])({_QUANT})(?=[-./])", re.IGNORECASE)
_NO_MODEL = re.compile(r"(?<![a-z0-9])(mmproj|imatrix)(?![a-z0-9])", re.IGNORECASE)  # of pictures; of how to quantise


@dataclass(frozen=True)
class HubId:
    """``owner/name``, optionally ``@revision``, and ``:file.gguf`` or the quantisation of one (``:Q4_K_M``).

    An empty ``revision`` is the hub's own: ``main`` or ``master``.
    """

    repo: str
    revision: str = ""
    file: str = ""
    quant: str = ""

    @classmethod
    def parse(cls, text: str) -> HubId | None:
        """Return the id that ``text`` spells, or None when it is not of that form."""
        found = _ID.fullmatch(text)
        if found is None or ".." in text:
            return None
        return cls(found["repo"], found["revision"] or "", found["file"] or "", found["quant"] or "")

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        choice = self.file or self.quant
        return f"{self.repo}{revision}{':' if choice else ''}{choice}"


def choose_files(names: Iterable[str], hub_id: HubId) -> tuple[str, ...]:
    """Return the files of a repository that are needed: those of a folder, its weights last, or of one GGUF model.

    Raises `ModelNotFoundError` when the wanted file is not there or the choice is open (listing the
    choices), `UnsupportedModelError` when there are no weights in a safe format.
    """
    present = set(names)
    ggufs = gguf_models(present)
    if hub_id.file:
        if hub_id.file in present:
            return parts_of_name(hub_id.file, present)
        raise _not_there(hub_id, f"file {hub_id.file}", ggufs)
    if hub_id.quant:
        return parts_of_name(_of_quant(ggufs, hub_id), present)
    weights = _safetensors(present)
    if weights and CONFIG in present:
        modules = {name for name in present if _MODULE.fullmatch(name)}
        return (*sorted(COMPANIONS & present | modules), *weights)
    return parts_of_name(_one_gguf(ggufs, hub_id), present)


def gguf_models(names: Iterable[str]) -> list[str]:
    """Return the GGUF files among ``names`` that are models: the first of each in parts, and no projectors."""
    found = first_parts(name for name in names if name.lower().endswith(".gguf"))
    return sorted(name for name in found if not _NO_MODEL.search(name))


def quantisation_of(name: str) -> str:
    """Return the quantisation that the name of a GGUF file states, in capitals; empty if it states none."""
    found = _IN_NAME.findall(name)
    return _standard(found[-1]) if found else ""


def _standard(quant: str) -> str:
    return quant.upper().replace("FP", "F")


def shards_of(folder: Path) -> frozenset[str]:
    """Return the files that the index in ``folder`` spreads the weights over; raises `ModelError`."""
    places = read_object(folder / INDEX).get("weight_map")
    return frozenset(map(str, places.values())) if isinstance(places, dict) else frozenset()


def located(snapshot: Path, chosen: tuple[str, ...]) -> Path:
    """Return the model's path in its snapshot: the (first) GGUF file, or the folder of all files."""
    return snapshot / chosen[0] if chosen[0].lower().endswith(".gguf") else snapshot


def in_snapshot(snapshot: Path, hub_id: HubId) -> Path | None:
    """Return the model of ``hub_id`` in a folder of its repository's files; None if it is not all there."""
    try:
        names = [p.relative_to(snapshot).as_posix() for p in snapshot.rglob("*") if p.is_file()]
        chosen = choose_files(names, hub_id)
        shards = shards_of(snapshot) if INDEX in chosen else frozenset()
    except (OSError, ModelError):
        return None
    return located(snapshot, chosen) if shards <= set(chosen) else None


def _safetensors(present: set[str]) -> tuple[str, ...]:
    """Return the weights in the repository's root: one file, or an index and its shards."""
    if SINGLE in present:
        return (SINGLE,)
    shards = sorted(name for name in present if _SHARD.fullmatch(name))
    if INDEX in present and shards:
        return (INDEX, *shards)
    single = [name for name in present if name.endswith(".safetensors") and "/" not in name]
    return tuple(single) if len(single) == 1 else ()


def _of_quant(ggufs: list[str], hub_id: HubId) -> str:
    """Return the GGUF file of the wanted quantisation; the shortest name, where several state it."""
    wanted = _standard(hub_id.quant)
    matching = [name for name in ggufs if quantisation_of(name) == wanted]
    if matching:
        return min(matching, key=lambda name: (len(name), name))
    raise _not_there(hub_id, f"GGUF file of {hub_id.quant}", ggufs)


def _one_gguf(ggufs: list[str], hub_id: HubId) -> str:
    """Return the GGUF file to use: the only one, or the only one of the most preferred quantisation."""
    if not ggufs:
        raise UnsupportedModelError(
            f"{hub_id.repo} has no weights that can be used: expected {CONFIG} with {SINGLE}, or a whole GGUF model. "
            "Pickled weights (.bin, .pt) are never loaded, because they can run code. "
            "Choose a repository with safetensors or GGUF files"
        )
    for kind in GGUF_PREFERENCE:
        matching = [name for name in ggufs if quantisation_of(name) == kind]
        if len(matching) == 1:
            return matching[0]
        if matching:
            ggufs = matching
            break
    if len(ggufs) == 1:
        return ggufs[0]
    raise ModelNotFoundError(
        f"{hub_id.repo} has several GGUF files: {_listed(ggufs)}. Name one: {hub_id}:{ggufs[0]}, "
        f"or its quantisation: {hub_id}:{quantisation_of(ggufs[0]) or 'Q8_0'}"
    )


def _not_there(hub_id: HubId, wanted: str, ggufs: list[str]) -> ModelNotFoundError:
    return ModelNotFoundError(
        f"{hub_id.repo} has no {wanted}. Name one of its GGUF files: {_listed(ggufs) or 'there are none'}"
    )


def _listed(names: list[str]) -> str:
    more = f", and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more
