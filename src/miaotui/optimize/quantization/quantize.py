"""Quantisation of a GGUF model to a number of bytes: survey, choice of types, rounding, and the file.

Owns the order of the work and what is kept between two runs. Knows no command line. A work folder beside the output
keeps the survey and every finished layer, so that an interrupted run goes on. Invariant: the output appears whole or
not at all; the same source, texts and target give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from miaotui.config import make_folder
from miaotui.errors import MiaotuiError, RequestError
from miaotui.hub.files import require_room, write_whole
from miaotui.hub.formats.gguf import DEFAULT_ALIGNMENT
from miaotui.hub.formats.mapped import map_file
from miaotui.hub.formats.tensors import BlockType, StoredTensor, stored_bytes
from miaotui.hub.formats.untrusted_json import read_object
from miaotui.hub.writers.gguf import with_file_type, write_gguf
from miaotui.optimize.layerwise import LayerwiseModel, Tokens
from miaotui.optimize.quantization.allocation import Allocation, Option, allocate
from miaotui.optimize.quantization.block_grids import kinds_for, off_grid_kinds
from miaotui.optimize.quantization.rounding import round_matrix
from miaotui.optimize.quantization.survey import Survey, SurveyPlan, layer_moments, survey, with_feedback
from miaotui.optimize.source import GgufSource, StoredMatrix
from miaotui.optimize.texts.calibration import TextSet
from miaotui.types import Progress

METHOD = 4  # changes when the same input would give other bytes
MIXED = 1024  # general.file_type of a mix that llama.cpp did not make: "guessed"
PROBE_ROW = 64  # tokens of each text that divergences are measured on
TYPE_BYTES = 64  # that the type of file may add to the metadata
Kinds = Mapping[str, BlockType]
Data = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Quantization:
    """Everything that decides the bytes of a quantised file, but for the types.

    ``keep`` lets a matrix stay as it is stored; ``kinds`` are the types to choose from (empty: all). ``off_grid``
    leaves out, for the matrices of layers, types that hold all values that the source can have: for honest comparisons.
    """

    source: GgufSource
    calibration: TextSet
    rows: Tokens  # of the calibration texts
    probe_tokens: int = 256
    keep: bool = True
    kinds: frozenset[BlockType] = frozenset()
    off_grid: bool = False

    @property
    def key(self) -> str:
        """Return a digest of model, texts and method."""
        lengths = [len(row) for row in self.rows]
        about = [METHOD, self.source.digest(), self.calibration.digest, lengths, self.probe_tokens]
        return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]

    @property
    def probe(self) -> Tokens:
        """Return the rows that divergences are measured on: beginnings of some, evenly taken."""
        count = min(max(1, self.probe_tokens // PROBE_ROW), len(self.rows))
        chosen = np.linspace(0, len(self.rows) - 1, count).astype(int)
        return [self.rows[i][: self.probe_tokens // count] for i in chosen]

    def kinds_of(self, matrix: StoredMatrix) -> tuple[BlockType, ...]:
        """Return the types that a matrix may be rounded to: those asked for that hold its rows, or the next larger."""
        holding = kinds_for(matrix.cols)
        if self.off_grid and matrix.layer >= 0:
            holding = off_grid_kinds(self.source.file.tensors[matrix.name].kind, matrix.cols)
        return tuple(kind for kind in holding if not self.kinds or kind in self.kinds) or holding[-1:]


@dataclass(frozen=True)
class MixedTypes:
    """Choice of types: of each matrix by stored name, the bytes of the file, and the predicted divergence in nats.

    ``lookup_share`` is the survey's. A matrix of its own stored type is copied.
    """

    kinds: Kinds
    file_bytes: int
    predicted_kl: float
    lookup_share: float


def surveyed(work: Path, quantization: Quantization, progress: Progress | None = None) -> Survey:
    """Return the losses of all matrices and types, from the work folder if they were measured before."""
    path = work / "survey.json"
    try:
        found = read_object(path)
        rows = found["losses"].items()
        losses = {name: {BlockType[kind]: float(x) for kind, x in row.items()} for name, row in rows}
        return Survey(losses, float(found["lookup_share"]))
    except (MiaotuiError, KeyError, AttributeError, TypeError, ValueError):
        made = survey(quantization.source, SurveyPlan(quantization.rows, quantization.probe), progress)
    named = {name: {kind.name: loss for kind, loss in row.items()} for name, row in made.losses.items()}
    text = json.dumps({"losses": named, "lookup_share": made.lookup_share})
    write_whole(path, "the survey", lambda file: file.write(text.encode()))
    return made


def matrix_bytes(matrix: StoredMatrix, kind: BlockType) -> int:
    """Return the bytes that a matrix takes in a file, up to the next tensor."""
    size = stored_bytes(matrix.name, (matrix.rows, matrix.cols), kind)
    return -(-size // DEFAULT_ALIGNMENT) * DEFAULT_ALIGNMENT


def fixed_bytes(source: GgufSource) -> int:
    """Return the bytes of a file without its matrices, at most: metadata, vectors, and what is never changed."""
    changed = sum(matrix_bytes(one, source.file.tensors[one.name].kind) for one in source.matrices)
    return source.path.stat().st_size - changed + TYPE_BYTES


def choose(quantization: Quantization, found: Survey, limit_bytes: int) -> MixedTypes:
    """Choose types for a file of at most ``limit_bytes``. Raises `RequestError` if none is so small."""
    source, rest = quantization.source, fixed_bytes(quantization.source)
    kinds, options = [], []
    for matrix in source.matrices:
        stored = source.file.tensors[matrix.name]
        each = list(quantization.kinds_of(matrix))
        ways = [Option(matrix_bytes(matrix, kind), found.losses[matrix.name][kind]) for kind in each]
        if quantization.keep:
            each.append(stored.kind)
            ways.append(Option(matrix_bytes(matrix, stored.kind), 0.0))
        kinds.append(each)
        options.append(ways)
    allocation = _allocated(options, limit_bytes, rest)
    chosen = {one.name: kinds[i][allocation.chosen[i]] for i, one in enumerate(source.matrices)}
    return MixedTypes(chosen, rest + allocation.size_bytes, allocation.loss, found.lookup_share)


def uniform(quantization: Quantization, found: Survey, kind: BlockType) -> MixedTypes:
    """Return the choice of one type for all matrices, or of what stands in for it where rows are no whole blocks."""
    from miaotui.optimize.quantization.block_grids import stored_kind  # noqa: PLC0415  (rarely needed)

    source = quantization.source
    kinds = {one.name: stored_kind(kind, one.cols) for one in source.matrices}
    size = sum(matrix_bytes(one, kinds[one.name]) for one in source.matrices)
    loss = sum(found.losses[one.name][kinds[one.name]] for one in source.matrices)
    return MixedTypes(kinds, fixed_bytes(source) + size, loss, found.lookup_share)


def _allocated(options: Sequence[Sequence[Option]], limit_bytes: int, rest: int) -> Allocation:
    try:
        return allocate(options, limit_bytes - rest)
    except RequestError:
        least = rest + sum(min(option.size_bytes for option in each) for each in options)
        raise RequestError(
            f"a file of {limit_bytes:,} bytes cannot be met: the nearest point is the smallest that these types allow, "
            f"{least:,} bytes (rows that are no multiple of 256 have no type below 4.5 bits). Ask for that, or choose "
            "a smaller model"
        ) from None


def write_quantized(
    quantization: Quantization, choice: MixedTypes, out: Path, work: Path, progress: Progress | None = None
) -> None:
    """Round the matrices to the chosen types and write ``out``. Raises `CacheError` where there is no room."""
    source = quantization.source
    require_room(make_folder(out.parent), 2 * choice.file_bytes)
    changed = {
        name: kind
        for name, kind in choice.kinds.items()
        if not (quantization.keep and kind is source.file.tensors[name].kind)
    }
    data = _rounded_layers(quantization, changed, choice.lookup_share, work, progress)
    tensors = {**source.file.tensors, **data}
    sizes = {name: (tensor.kind, tensor.shape) for name, tensor in tensors.items()}
    head = with_file_type(map_file(source.path), str(source.path), MIXED)
    parts = (tensor.data.reshape(-1) for tensor in tensors.values())
    write_whole(out, "the quantised model", lambda file: write_gguf(file, head, sizes, parts))


def _rounded_layers(
    quantization: Quantization, changed: Kinds, lookup_share: float, work: Path, progress: Progress | None
) -> Mapping[str, StoredTensor]:
    """Return the rounded matrices by stored name; each layer sees inputs that the rounded layers before it make."""
    source = quantization.source
    found: dict[str, StoredTensor] = {}
    folder = make_folder(work / _choice_key(changed))
    model = LayerwiseModel(source.config, source.canonical())

    def rounded(layer: int) -> LayerwiseModel:
        return LayerwiseModel(source.config, source.canonical(found))

    for number, (layer, moments) in enumerate(layer_moments(source, model, quantization.rows, rounded)):
        matrices = [one for one in source.matrices if one.layer == layer and one.name in changed]
        for matrix, feedback in with_feedback(matrices, moments, lookup_share):
            kind = changed[matrix.name]
            path = folder / f"{matrix.name}.npy"
            data = read_blocks(path, matrix.rows, kind.row_bytes(matrix.cols))
            if data is None:
                weights = source.file.tensors[matrix.name].float32().reshape(matrix.rows, matrix.cols)
                data = round_matrix(weights, kind, feedback).data
                blocks = data
                write_whole(path, "a finished matrix", lambda file: np.save(file, blocks))  # noqa: B023  (called at once)
            found[matrix.name] = StoredTensor(matrix.name, source.file.tensors[matrix.name].shape, kind, data)
        if progress is not None:
            progress("rounding layers", number + 1, source.config.n_layers + 1)
    return found


def read_blocks(path: Path, rows: int, row_bytes: int) -> Data | None:
    """Return a finished matrix that a work folder keeps; None if it is not there, or not whole."""
    try:
        data = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return data if data.shape == (rows, row_bytes) and data.dtype == np.uint8 else None


def _choice_key(kinds: Kinds) -> str:
    text = json.dumps(sorted((name, kind.name) for name, kind in kinds.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def remove_work(work: Path) -> None:
    """Remove a work folder once its output is there."""
    shutil.rmtree(work, ignore_errors=True)


def _ways(quantization: Quantization, matrix: StoredMatrix) -> tuple[BlockType, ...]:
    """Return the types that a matrix may have in the file, its own among them if it may stay."""
    own = (quantization.source.file.tensors[matrix.name].kind,) if quantization.keep else ()
    return (*quantization.kinds_of(matrix), *own)


def predicted_curve(
    quantization: Quantization, found: Survey, limit_bytes: int | None, count: int
) -> Iterator[MixedTypes]:
    """Yield choices from the smallest file up to ``limit_bytes`` (None: the original's size), evenly spaced in bytes.

    Raises `RequestError` if no file is so small.
    """
    source = quantization.source
    least = fixed_bytes(source) + sum(
        min(matrix_bytes(one, kind) for kind in _ways(quantization, one)) for one in source.matrices
    )
    most = max(source.path.stat().st_size, least) if limit_bytes is None else limit_bytes
    for limit in np.linspace(min(least, most), most, count).astype(int):
        yield choose(quantization, found, int(limit))
