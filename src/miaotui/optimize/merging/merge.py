"""A merge from files to a file: everything is checked, then one tensor after another is merged and written.

Owns the order of the work. The methods are `methods`, the way back to stored tensors is `model.writing`. Invariants:
nothing is written before all shapes, tied matrices and tokenizers are known to fit; of each model a block of rows is
in memory; the result appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from miaotui.config import Settings
from miaotui.errors import UnsupportedModelError
from miaotui.hub.formats.tensors import BlockType, StoredTensor
from miaotui.hub.resolve import resolve
from miaotui.model.reading.files import ModelFiles, open_model
from miaotui.model.reading.names import tensor_shapes
from miaotui.model.writing.files import require_new, require_whole, write_like
from miaotui.model.writing.layout import Array, Rows, StoredLayout, canonical_values
from miaotui.optimize.merging.methods import BASE, Merged, merged_tensor
from miaotui.optimize.merging.recipe import MergeRecipe
from miaotui.optimize.merging.vocabularies import JoinedVocabulary, join_vocabularies
from miaotui.optimize.origin import Origin, described, write_origin
from miaotui.types import Progress

VOCABULARY_ROWS = ("embed", "head", "head_bias")
# Parts of a configuration in which models may differ; the base's stay.
MAY_DIFFER = frozenset({"architecture", "vocab_size", "context_length", "rope", "local_rope", "windows", "norm_eps"})
KINDS = {"f32": BlockType.F32, "f16": BlockType.F16, "bf16": BlockType.BF16}


def merge(recipe: MergeRecipe, out: Path, settings: Settings, progress: Progress | None = None) -> Origin:
    """Merge models into ``out``, in the form of the base (of the first model, where there is none): a folder of
    safetensors, or a GGUF file. Returns its origin, which is also written.

    Raises a `ModelError` for what cannot be read, `UnsupportedModelError` for models that do not fit each other,
    `RequestError` if ``out`` exists, and `CacheError` if it cannot be made.
    """
    require_new(out)
    names = [recipe.base, *recipe.models] if recipe.base is not None else list(recipe.models)
    paths = [resolve(name, progress=progress, settings=settings) for name in names]
    require_whole(paths[0])
    with contextlib.ExitStack() as stack:
        models = [stack.enter_context(open_model(path)) for path in paths]
        for name, model in zip(names[1:], models[1:], strict=True):
            _require_fits(names[0], models[0], name, model)
        vocabulary = join_vocabularies(names, models, recipe.tokenizer == "union")
        work = _Merge(recipe, models, vocabulary)
        companions = _companions(paths[0], vocabulary)
        write_like(paths[0], out, work.sizes(), lambda tensor, kind: work.data(tensor, kind, progress), companions)
    sources = [described(name, path) for name, path in zip(names, paths, strict=True)]
    values = {key: value for key, value in asdict(recipe).items() if key not in ("models", "base")}
    plain = json.loads(json.dumps(values))
    origin = Origin("merge", described(out.name, out), tuple(sources), plain, {})
    write_origin(out, origin)
    return origin


class _Merge:
    def __init__(self, recipe: MergeRecipe, models: list[ModelFiles], vocabulary: JoinedVocabulary) -> None:
        self._recipe, self._models, self._vocabulary = recipe, models, vocabulary
        self._first = 1 if recipe.base is not None else 0  # of the models, the base lies before them
        self._config = models[0].config
        self._shapes = tensor_shapes(self._config)
        self._layout = StoredLayout(models[0].tensors)
        self._grown = vocabulary.size != self._config.vocab_size
        self._merged: dict[str, Merged] = {}

    def sizes(self) -> Mapping[str, tuple[BlockType, tuple[int, ...]]]:
        """Return type and shape of each tensor that is written."""
        found = {}
        for name, tensor in self._layout.written():
            kind, shape = tensor.kind, tensor.shape
            if self._layout.holds(name):
                wanted = KINDS.get(self._recipe.dtype or "")
                if wanted is not None and (len(shape) > 1 or self._models[0].metadata is None):
                    kind = wanted
                elif not kind.is_float:
                    kind = BlockType.F16
            found[name] = kind, self._shape(name, shape)
        return found

    def _shape(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (self._vocabulary.size, *shape[1:]) if self._grown and self._has_vocabulary(name) else shape

    def _has_vocabulary(self, stored: str) -> bool:
        sources = self._models[0].tensors.sources
        return any(each in sources and sources[each].name == stored for each in VOCABULARY_ROWS)

    def data(self, tensor: StoredTensor, kind: BlockType, progress: Progress | None) -> Iterator[NDArray[np.uint8]]:
        """Yield the merged bytes of a stored tensor."""
        if progress is not None:
            progress("merging", list(self._layout.stored).index(tensor.name), len(self._layout.stored))
        if not self._layout.holds(tensor.name):
            yield tensor.data.reshape(-1)
            return
        rows = self._vocabulary.size if self._grown and self._has_vocabulary(tensor.name) else None
        self._merged.clear()
        yield from self._layout.blocks(tensor.name, kind, self._values, rows)

    def _values(self, name: str, rows: Rows) -> Array:
        if name not in self._merged:
            shape = self._shapes[name]
            if name in VOCABULARY_ROWS:
                shape = (self._vocabulary.size, *shape[1:])
            part = name.split(".")
            last = max(self._config.n_layers - 1, 1)
            place = int(part[1]) / last if part[0] == "layers" else float(name not in ("embed",))

            def read(model: int, rows: Rows) -> Array:
                return self._read(0 if model == BASE else model + self._first, name, rows)

            self._merged[name] = merged_tensor(self._recipe, name, shape, place, read)
        return self._merged[name](rows)

    def _read(self, model: int, name: str, rows: Rows) -> Array:
        """Return rows of one model; rows of tokens that it does not know are the mean of those models that do."""
        if name not in VOCABULARY_ROWS:
            return canonical_values(self._models[model].tensors, name, rows)
        own = self._vocabulary.rows[model][rows]
        values = canonical_values(self._models[model].tensors, name, np.maximum(own, 0))
        missing = np.flatnonzero(own < 0)
        if len(missing):
            values[missing] = self._of_others(name, rows[missing])
        return values

    def _of_others(self, name: str, rows: Rows) -> Array:
        total = np.zeros((len(rows), *self._shapes[name][1:]), np.float32)
        known = np.zeros(len(rows), np.float32)
        for other, model in enumerate(self._models):
            own = self._vocabulary.rows[other][rows]
            has = np.flatnonzero(own >= 0)
            if len(has):
                total[has] += canonical_values(model.tensors, name, own[has])
                known[has] += 1
        share = np.maximum(known, np.float32(1)).reshape(-1, *(1 for _ in total.shape[1:]))
        mean: Array = (total / share).astype(np.float32)
        return mean


def _require_fits(first_name: str, first: ModelFiles, name: str, other: ModelFiles) -> None:
    """Raise `UnsupportedModelError`, naming a tensor, for models whose weights do not lie on each other."""
    ours, theirs = tensor_shapes(first.config), tensor_shapes(other.config)
    if first.config.tied_head != other.config.tied_head:
        tied, own = (first_name, name) if first.config.tied_head else (name, first_name)
        raise UnsupportedModelError(
            f"{tied} uses its embedding as the output matrix, and {own} has an output matrix of its own: merge models "
            "that are alike in this"
        )
    for key in ours.keys() ^ theirs.keys():
        has, lacks = (first_name, name) if key in ours else (name, first_name)
        raise UnsupportedModelError(f"{has} has {key}, which {lacks} lacks: merge models of one architecture and size")
    for key, shape in ours.items():
        expected, found = (shape[1:], theirs[key][1:]) if key in VOCABULARY_ROWS else (shape, theirs[key])
        if expected != found:
            raise UnsupportedModelError(
                f"{key} is {list(shape)} in {first_name} and {list(theirs[key])} in {name}: merge models of one size"
            )
    for field in fields(first.config):
        one, two = (getattr(each.config, field.name) for each in (first, other))
        close = isinstance(one, float) and isinstance(two, float) and math.isclose(one, two, rel_tol=1e-5)
        if field.name not in MAY_DIFFER and one != two and not close:
            raise UnsupportedModelError(
                f"{field.name.replace('_', ' ')} is {str(one)[:80]} in {first_name} and {str(two)[:80]} in {name}: "
                "merge models of one architecture"
            )


def _companions(base: Path, vocabulary: JoinedVocabulary) -> dict[str, bytes]:
    """Return the files of the folder that change with the vocabulary."""
    if vocabulary.tokenizer is None:
        return {}
    config = json.loads((base / "config.json").read_text(encoding="utf-8")) | {"vocab_size": vocabulary.size}
    return {"tokenizer.json": vocabulary.tokenizer, "config.json": json.dumps(config, indent=1).encode()}
