"""Packed weights of a model: made once from its files, kept in the cache, and mapped from there afterwards.

Decides which matrices are fused (queries, keys and values; gate and up, in alternating units of 32 rows) and which
format each gets. Knows nothing of passes. Invariant: a mapped file was packed by this layout version from this very
source.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from miaotui.errors import CacheError
from miaotui.hub.formats.tensors import StoredTensor
from miaotui.hub.store import PackedFile, PackedStore, PackedWriter, content_key
from miaotui.kernels.linear.formats import UNIT_ROWS, Format, padded_rows, tile_stride
from miaotui.model.config import ModelConfig
from miaotui.model.head_layout import HeadLayout
from miaotui.model.packing import pack_matrix, packed_format, require_finite
from miaotui.model.reading.files import ModelFiles, open_model
from miaotui.types import Progress, progress_as

LAYOUT = 4
STATE_MATRICES = ("layer_projection", "stream_up", "stream_down")
LAYER_MATRICES = ("laurel_left", "laurel_right", "input_gate", "input_projection")
NUMBERS = ("altup_router", "altup_predict", "altup_correct")  # small matrices that kernels read as float32
SMALL_PARTS = ("q_a", "kv_a", "k_rope")  # of latent attention: products whose results are its small vectors


class Matrix(NamedTuple):
    """Packed matrix: ``units`` of 32 outputs, ``inputs`` wide."""

    format: Format
    data: NDArray[np.uint8]  # [units, tiles per unit, tile stride]
    inputs: int

    @property
    def address(self) -> int:
        """Return the address of its first byte."""
        return int(self.data.ctypes.data)

    @property
    def units(self) -> int:
        """Return the number of units of 32 outputs."""
        return int(self.data.shape[0])

    @property
    def tile_stride(self) -> int:
        """Return the bytes from one tile to the next."""
        return int(self.data.shape[2])


class PackedModel:
    """Packed weights by name: `matrix` and `vector`. The mapped file stays open until `close`."""

    def __init__(self, file: PackedFile) -> None:
        self._file = file

    def __contains__(self, name: str) -> bool:
        return name in self._file.arrays

    def matrix(self, name: str) -> Matrix:
        """Return a packed matrix."""
        form, inputs = self._file.meta["matrices"][name]
        return Matrix(Format(form), self._file.arrays[name], inputs)

    def vector(self, name: str) -> NDArray[np.float32]:
        """Return a float32 vector: a norm's weights or a bias."""
        return self._file.arrays[name]

    @property
    def formats(self) -> set[Format]:
        """Return every format in use."""
        return {Format(form) for form, _ in self._file.meta["matrices"].values()}

    @property
    def size_bytes(self) -> int:
        """Return the bytes of all packed weights."""
        return sum(array.nbytes for array in self._file.arrays.values())

    def close(self) -> None:
        """Unmap the file. Its matrices must not be used afterwards."""
        self._file.close()


class PackedPart(NamedTuple):
    """Weights that one process needs of a model whose layers are shared out."""

    layers: range
    has_ends: bool  # the embedding, and what comes after the last layer

    def holds(self, name: str) -> bool:
        """Return whether the weights of that canonical name belong to it."""
        if name.startswith("layers."):
            return int(name.split(".", 2)[1]) in self.layers
        return self.has_ends

    @property
    def key(self) -> dict[str, Any]:
        """Return its share of a cache's key."""
        return {"layers": [self.layers.start, self.layers.stop], "ends": self.has_ends}


class PackingJob(NamedTuple):
    """One packed matrix and its parts, one part after another or in alternating units."""

    name: str
    parts: tuple[StoredTensor, ...]
    format: Format
    alternating: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return units, tiles of a unit, bytes of a tile."""
        units = [padded_rows(part.rows) // UNIT_ROWS for part in self.parts]
        stride = tile_stride(self.format, self.parts[0].cols)
        return (units[0], 2 * len(units), stride) if self.alternating else (sum(units), 2, stride)


def load_packed(
    path: Path,
    store: PackedStore,
    wanted: Format = Format.Q8,
    progress: Progress | None = None,
    part: PackedPart | None = None,
) -> PackedModel:
    """Return the packed weights of the model at ``path``, or of a ``part`` of it, from the cache or packed now.

    ``wanted`` is the format of matrices that the file stores as floats; ``progress`` is called with ``packing``, or
    ``repacking`` where an older version's layout is replaced. Raises as `open_model` does, and
    `CacheError`.
    """
    extra = {"format": wanted.value, **({} if part is None else part.key)}
    key = packed_key(path, wanted, part)
    file = store.open(key)
    if file is not None:
        return PackedModel(file)
    with open_model(path) as files:
        return pack_model(files, store, key, wanted, packing_progress(progress, path, store, extra), part)


def packed_key(path: Path, wanted: Format = Format.Q8, part: PackedPart | None = None) -> str:
    """Return the name under which `load_packed` keeps the packed weights of the model at ``path``, or of a ``part``."""
    return content_key(path, {"layout": LAYOUT, "format": wanted.value, **({} if part is None else part.key)})


def packing_progress(
    progress: Progress | None, path: Path, store: PackedStore, extra: Mapping[str, Any]
) -> Progress | None:
    """Return ``progress`` under the name of the step: ``repacking`` where an older version has packed these weights.

    ``extra`` is the rest of the key's content beside the layout. The older file stays until the cache needs its room.
    """
    known = any(store.holds(content_key(path, {"layout": older, **extra})) for older in range(1, LAYOUT))
    return progress_as(progress, "repacking" if known else "packing")


def pack_model(
    files: ModelFiles,
    store: PackedStore,
    key: str,
    wanted: Format = Format.Q8,
    progress: Progress | None = None,
    part: PackedPart | None = None,
) -> PackedModel:
    """Pack an opened model, or a ``part`` of it, into the cache under ``key``, and map it; raises `CacheError`."""
    config, tensors = files.config, files.tensors
    jobs = [job for job in _jobs(config, tensors, wanted) if part is None or part.holds(job.name)]
    return pack_jobs(jobs, _vectors(config, tensors, part), store, key, progress)


def packed_sizes(files: ModelFiles, wanted: Format = Format.Q8) -> tuple[int, list[int]]:
    """Return the bytes of all packed matrices that belong to no layer, and those of each layer."""
    outer, layers = 0, [0] * files.config.n_layers
    for job in _jobs(files.config, files.tensors, wanted):
        if job.name.startswith("layers."):
            layers[int(job.name.split(".", 2)[1])] += math.prod(job.shape)
        else:
            outer += math.prod(job.shape)
    return outer, layers


def pack_jobs(
    jobs: Sequence[PackingJob],
    vectors: Iterable[tuple[str, NDArray[np.float32]]],
    store: PackedStore,
    key: str,
    progress: Progress | None = None,
) -> PackedModel:
    """Write matrices and ``vectors`` into the cache under ``key``, and map them. Raises `CacheError`."""
    twins = _twins(jobs)
    total = sum(math.prod(job.shape) for job in jobs if job.name not in twins)
    meta: dict[str, Any] = {"matrices": {job.name: [job.format.value, job.parts[0].cols] for job in jobs}}
    done = 0
    with store.create(key, meta, expected_bytes=total) as writer:
        for job in jobs:
            if progress:
                progress(job.name, done, total)
            if job.name in twins:
                writer.share(job.name, twins[job.name])
                continue
            _pack_one(job, writer)
            done += math.prod(job.shape)
        for name, vector in vectors:
            writer.add(name, vector)
    if progress:
        progress("", total, total)
    file = store.open(key)
    if file is None:
        raise CacheError(
            f"the packed weights in {store.folder} were removed or damaged while they were "
            "written: try again, and set MIAOTUI_PACKED_MAX_GB higher if they do not fit"
        )
    return PackedModel(file)


def _twins(jobs: Sequence[PackingJob]) -> dict[str, str]:
    """Return the matrices that are stored with the same bytes as an earlier one, as layers that share weights are.

    Bytes are compared where a sample of them agrees, so that other models cost a few microseconds for a matrix.
    """
    known: dict[tuple[Any, ...], list[PackingJob]] = {}
    twins: dict[str, str] = {}
    for job in jobs:
        if any(type(part) is not StoredTensor for part in job.parts):
            continue  # made when it is read
        samples = [(part.kind, part.shape, part.data[0].tobytes(), part.data[-1].tobytes()) for part in job.parts]
        others = known.setdefault((job.format, job.alternating, *samples), [])
        twin = next((each for each in others if _equal(each, job)), None)
        if twin is None:
            others.append(job)
        else:
            twins[job.name] = twin.name
    return twins


def _equal(one: PackingJob, other: PackingJob) -> bool:
    return all(np.array_equal(a.data, b.data) for a, b in zip(one.parts, other.parts, strict=True))


def _pack_one(job: PackingJob, writer: PackedWriter) -> None:
    out = writer.reserve(job.name, job.shape, np.uint8)
    first = 0
    for index, part in enumerate(job.parts):
        if job.alternating:
            pack_matrix(part, job.format, out[:, 2 * index : 2 * index + 2])
        else:
            units = padded_rows(part.rows) // UNIT_ROWS
            pack_matrix(part, job.format, out[first : first + units])
            first += units


def _jobs(config: ModelConfig, tensors: Any, wanted: Format) -> Iterator[PackingJob]:
    outer = Format.Q8 if wanted in (Format.Q4, Format.Q5_0) else wanted  # embedding and head keep 8 bits

    def single(name: str, form: Format) -> PackingJob:
        return PackingJob(name, (tensors[name],), packed_format(tensors[name].kind, form))

    yield single("embed", outer)
    if config.layer_inputs is not None:
        yield single("layer_embed", outer)
    for name in STATE_MATRICES:
        if name in tensors:
            yield single(name, wanted)
    for layer in range(config.n_layers):
        prefix, heads = f"layers.{layer}.", HeadLayout(config.at(layer))
        letters = "qkv" if config.has_keys(layer) else "q"
        parts = {name: heads.stored(tensors[prefix + name], name, layer) for name in letters}
        if config.latent is None:
            yield from _fused(prefix, letters, parts, wanted)
        else:
            small = {name: tensors[prefix + name] for name in SMALL_PARTS if prefix + name in tensors}
            yield from _fused(prefix, "latent", small, wanted)
            yield from _fused(prefix, "q", {"q": parts["q"]}, wanted)
            yield from _fused(prefix, "kv", {"k": parts["k"], "v": parts["v"]}, wanted)
        yield single(prefix + "o", wanted)
        for name in LAYER_MATRICES:
            if prefix + name in tensors:
                yield single(prefix + name, wanted)
        for part in _feed_forward_parts(config, layer):
            yield _gate_up(prefix + part, tensors, wanted) if config.gated else single(prefix + "up", wanted)
            yield single(f"{prefix}{part}down", wanted)
        if config.layer_experts(layer) is not None:
            routers = [tensors[prefix + name] for name in ("router", "shared_router") if prefix + name in tensors]
            yield PackingJob(prefix + "router", tuple(routers), Format.F32)
    if not config.tied_head:
        yield single("head", outer)


def _feed_forward_parts(config: ModelConfig, layer: int) -> list[str]:
    """Return what the names of a layer's feed-forward matrices begin with."""
    experts = config.layer_experts(layer)
    if experts is None:
        return [""]
    usual = [""] if experts.beside else []
    return [*usual, "expert_", "shared_"] if experts.shared_size else [*usual, "expert_"]


def _gate_up(prefix: str, tensors: Any, wanted: Format) -> PackingJob:
    """Return gate and up as one matrix of alternating units; of 8 bits if their formats differ."""
    gate, up = tensors[prefix + "gate"], tensors[prefix + "up"]
    forms = {packed_format(part.kind, wanted) for part in (gate, up)}
    form = forms.pop() if len(forms) == 1 else Format.Q8
    return PackingJob(prefix + "gate_up", (gate, up), form, alternating=True)


def _fused(prefix: str, name: str, parts: Mapping[str, StoredTensor], wanted: Format) -> Iterator[PackingJob]:
    """Return one matrix ``name`` if all parts share a format, else one each."""
    forms = [packed_format(part.kind, wanted) for part in parts.values()]
    if len(set(forms)) == 1:
        yield PackingJob(prefix + name, tuple(parts.values()), forms[0])
        return
    for (part_name, part), form in zip(parts.items(), forms, strict=True):
        yield PackingJob(prefix + part_name, (part,), form)


def _vectors(
    config: ModelConfig, tensors: Any, part: PackedPart | None = None
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    part = part or PackedPart(range(config.n_layers), has_ends=True)
    for name, tensor in tensors.items():
        if not part.holds(name):
            continue
        if len(tensor.shape) == 1:
            vector = tensor.float32()
            require_finite(tensor, vector)
            if name.endswith(("head_bias", "router_logit_bias")):  # as long as what kernels write
                vector = np.pad(vector, (0, padded_rows(len(vector)) - len(vector)))
            if not name.endswith(("q_bias", "k_bias", "v_bias", "expert_gate_bias", "expert_up_bias")):
                yield name, vector
        elif name.endswith(NUMBERS):
            numbers = tensor.float32()
            require_finite(tensor, numbers)
            yield name, numbers.reshape(-1)
    if config.experts is not None and config.experts.expert_bias:
        for layer in part.layers:
            parts = [tensors[f"layers.{layer}.expert_{part}_bias"].float32() for part in ("gate", "up")]
            units = [part.reshape(-1, 1, UNIT_ROWS) for part in parts]  # as the rows of the packed matrix
            yield f"layers.{layer}.expert_gate_up_bias", np.concatenate(units, 1).reshape(-1)
    if config.qkv_bias:
        heads = HeadLayout(config)
        for layer in part.layers:
            parts = [heads.stored(tensors[f"layers.{layer}.{letter}_bias"], letter, layer) for letter in "qkv"]
            padded = [np.pad(part.float32(), (0, padded_rows(part.shape[0]) - part.shape[0])) for part in parts]
            yield f"layers.{layer}.qkv_bias", np.concatenate(padded)  # as the rows of the packed matrices
