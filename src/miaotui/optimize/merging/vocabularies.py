"""Vocabularies of the models that are merged: equal, or joined to one.

Owns the comparison, and which row of each model's embedding belongs to a token. Knows no weights. Invariant: a token of
the merged model has its meaning from models that know this very token, and from no others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miaotui.errors import UnsupportedModelError
from miaotui.model.reading.files import ModelFiles
from miaotui.text.load import load_tokenizer
from miaotui.text.model_files import read_json
from miaotui.text.tokenizers.comparison import same_tokens

REMEDY = (
    "merge models of one family and tokenizer, or teach one to the other instead (miaotui finetune on answers that "
    "the other has written)"
)


@dataclass(frozen=True)
class JoinedVocabulary:
    """Tokens of the merged model. ``rows[m][token]`` is the token's row in model ``m``, -1 where it has none.

    ``tokenizer`` is the new ``tokenizer.json``; None: the base's stays.
    """

    size: int
    rows: tuple[NDArray[np.intp], ...]
    tokenizer: bytes | None = None

    @property
    def is_plain(self) -> bool:
        """Return whether each model has all tokens at their own numbers."""
        return all(np.array_equal(rows, np.arange(self.size)) for rows in self.rows)


def join_vocabularies(names: Sequence[str], models: Sequence[ModelFiles], union: bool) -> JoinedVocabulary:
    """Return the tokens of the merged model; the first model's tokenizer is the one that stays, or that grows.

    Raises `UnsupportedModelError` for other tokenizers, and with ``union`` for those that differ in more than
    added tokens.
    """
    tokenizers = [load_tokenizer(model.metadata, model.folder) for model in models]
    sizes = [model.config.vocab_size for model in models]
    rules = [_rules(model) for model in models]
    differing = [
        i
        for i, each in enumerate(tokenizers)
        if not same_tokens(tokenizers[0], each)
        or ((models[i].metadata is None) is (models[0].metadata is None) and rules[i] != rules[0])
    ]
    if not differing:
        rows = tuple(np.where(np.arange(sizes[0]) < size, np.arange(sizes[0]), -1) for size in sizes)
        return JoinedVocabulary(sizes[0], rows)
    if not union:
        raise UnsupportedModelError(
            f"{names[differing[0]]} has another tokenizer than {names[0]}: if only added tokens differ, join them "
            f"(--tokenizer union); else {REMEDY}"
        )
    return _union(names, models, sizes)


def _union(names: Sequence[str], models: Sequence[ModelFiles], sizes: Sequence[int]) -> JoinedVocabulary:
    files = [_tokenizer_file(name, model) for name, model in zip(names, models, strict=True)]
    rules = [_rules(model) for model in models]
    merged = json.loads(json.dumps(files[0]))
    for name, each in zip(names[1:], rules[1:], strict=True):
        for key, value in each.items():
            if value != rules[0][key]:
                raise UnsupportedModelError(f"{name} and {names[0]} cut texts in other ways ({key}): {REMEDY}")
    known = {str(token["content"]): int(token["id"]) for token in merged["added_tokens"]}
    plain = {str(text): int(number) for text, number in _plain(merged).items()}
    following = max([*plain.values(), *known.values()]) + 1
    for file in files[1:]:
        for token in file["added_tokens"]:
            text = str(token["content"])
            if text not in known and text not in plain:
                known[text] = following
                merged["added_tokens"].append({**token, "id": following})
                following += 1
    size = max(sizes[0], following)
    rows = tuple(_rows(plain, known, file, own, size) for file, own in zip(files, sizes, strict=True))
    return JoinedVocabulary(size, rows, json.dumps(merged, ensure_ascii=False).encode())


def _rules(model: ModelFiles) -> dict[str, Any]:
    """Return what decides how a text is cut, apart from added tokens, in one spelling."""
    if model.metadata is not None:
        return {key: model.metadata.get(f"tokenizer.ggml.{key}") for key in ("model", "pre", "merges")}
    file = read_json(model.folder / "tokenizer.json") if model.folder is not None else {}
    rules = {key: file.get(key) for key in ("model", "normalizer", "pre_tokenizer", "decoder")}
    if isinstance(rules["model"], dict) and isinstance(rules["model"].get("merges"), list):
        merges = [" ".join(each) if isinstance(each, list) else each for each in rules["model"]["merges"]]
        rules["model"] = {**rules["model"], "merges": merges}
    return rules


def _rows(
    plain: Mapping[str, int], known: Mapping[str, int], file: Mapping[str, Any], own_rows: int, size: int
) -> NDArray[np.intp]:
    own = _plain(file) | {str(token["content"]): int(token["id"]) for token in file["added_tokens"]}
    rows = np.full(size, -1, np.intp)
    for text, number in {**plain, **known}.items():
        if text in own and own[text] < own_rows:
            rows[number] = own[text]
    return rows


def _plain(file: Mapping[str, Any]) -> dict[str, int]:
    vocabulary = file["model"].get("vocab")
    return {str(text): int(number) for text, number in vocabulary.items()} if isinstance(vocabulary, dict) else {}


def _tokenizer_file(name: str, model: ModelFiles) -> dict[str, Any]:
    folder: Path | None = model.folder if model.metadata is None else None
    found = read_json(folder / "tokenizer.json") if folder is not None else {}
    ok = isinstance(found.get("model"), dict) and isinstance(found.get("added_tokens"), list)
    if not ok or not isinstance(found["model"].get("vocab"), dict):
        raise UnsupportedModelError(f"{name} has no tokenizer.json with a vocabulary by text, to be joined: {REMEDY}")
    return found
