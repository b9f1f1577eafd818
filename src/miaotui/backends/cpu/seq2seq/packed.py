"""Packed weights of an encoder-decoder: made once from its tensors, kept in the cache, and mapped from there.

Decides which matrices are fused (queries, keys and values; the cross-attention's keys and values; both products of a
recurrent unit; gate and up, in alternating units of 32 rows). Knows no passes. Invariant: weights asked for as float32
keep the values of the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from miaotui.hub.formats.tensors import BlockType, ComputedTensor, StoredTensor
from miaotui.hub.store import PackedStore, content_key
from miaotui.kernels.linear.formats import GROUP, UNIT_ROWS, Format, padded_rows
from miaotui.kernels.linear.packed_blocks import quantize, values
from miaotui.model.packed import LAYOUT, PackedModel, PackingJob, pack_jobs, packing_progress
from miaotui.model.packing import encoder_format, require_finite
from miaotui.model.seq2seq.config import Seq2SeqConfig
from miaotui.model.seq2seq.names import CONVOLUTIONS, RECURRENT, STACKS, seq2seq_shapes
from miaotui.types import Progress

SEQ2SEQ_LAYOUT = 3
REST = "_rest"  # of a model of sound: what 8 bits leave of a matrix of its decoder, in 8 bits more
HEAD_REST = "head" + REST
FUSED = {"qkv": ("q", "k", "v"), "cross_kv": ("cross_k", "cross_v"), "gates": RECURRENT}
RESTED = ("decoder",)
_TABLES = ("position_embed", "relative_bias")  # read as float32 rows

Tensors = Mapping[str, StoredTensor]
Floats = NDArray[np.float32]


def load_packed_seq2seq(
    path: Path,
    config: Seq2SeqConfig,
    tensors: Tensors,
    store: PackedStore,
    wanted: Format = Format.Q8,
    progress: Progress | None = None,
) -> PackedModel:
    """Return the packed weights of the opened model at ``path``, from the cache or packed now.

    ``wanted`` is the format of matrices that the file stores as floats; with `Format.F32` of all. Raises `CacheError`,
    and `ModelFormatError` for weights that are not numbers.
    """
    extra = {"seq2seq": SEQ2SEQ_LAYOUT, "format": wanted.value}
    key = content_key(path, {"layout": LAYOUT, **extra})
    file = store.open(key)
    if file is not None:
        return PackedModel(file)
    told = packing_progress(progress, path, store, extra)
    return pack_jobs(list(_jobs(config, tensors, wanted)), _vectors(config, tensors), store, key, told)


def zero_row(config: Seq2SeqConfig) -> int:
    """Return the row of the packed target embedding that is 0, for models whose first target token has none."""
    return padded_rows(config.vocab_size)


def _jobs(config: Seq2SeqConfig, tensors: Tensors, wanted: Format) -> Iterator[PackingJob]:
    outer = Format.Q8 if wanted is Format.Q4 else wanted  # tables of words keep 8 bits
    yield _job("embed", [tensors["embed"], *_zeros(config)], outer)
    for name in ("source_embed", "head"):
        if name in tensors:
            yield _job(name, [tensors[name]], outer)
    head = tensors["embed" if config.tied_head else "head"]
    if config.mel_bins and outer is Format.Q8 and head.kind.is_float:
        yield _rest_job("head", [head])
    for name in CONVOLUTIONS if config.mel_bins else ():
        yield PackingJob(name, (_whole_groups(tensors[name]),), Format.F32, False)
    for stack in STACKS:
        for layer in range(config.stack(stack).n_layers):
            for job in _layer_jobs(config, tensors, wanted, f"{stack}.layers.{layer}."):
                yield job
                if config.mel_bins and stack in RESTED and job.format is Format.Q8 and _has_rest(job):
                    yield _rest_job(job.name, job.parts)


def _layer_jobs(config: Seq2SeqConfig, tensors: Tensors, wanted: Format, prefix: str) -> Iterator[PackingJob]:
    for name, parts in FUSED.items():
        if prefix + parts[0] in tensors:
            yield _job(prefix + name, [tensors[prefix + part] for part in parts], wanted)
    for name in ("o", "cross_q", "cross_o", "down", *(() if config.gated else ("up",))):
        if prefix + name in tensors:
            yield _job(prefix + name, [tensors[prefix + name]], wanted)
    if config.gated:
        pair = [tensors[prefix + name] for name in ("gate", "up")]
        yield _job(prefix + "gate_up", pair, wanted, alternating=True)


def _job(name: str, parts: list[StoredTensor], wanted: Format, alternating: bool = False) -> PackingJob:
    """Return how a matrix is packed: in the format that all parts share, or else with 8 bits."""
    formats = {wanted if wanted is Format.F32 else encoder_format(part.kind, wanted) for part in parts}
    form = formats.pop() if len(formats) == 1 else Format.Q8
    return PackingJob(name, tuple(parts), form, alternating)


def _has_rest(job: PackingJob) -> bool:
    """Return whether a matrix has products of its own, into which a second one may add."""
    return not job.alternating and not job.name.endswith(".up") and all(part.kind.is_float for part in job.parts)


def _rest_job(name: str, parts: Sequence[StoredTensor]) -> PackingJob:
    return PackingJob(name + REST, tuple(_rest(part) for part in parts), Format.Q8, False)


def _rest(tensor: StoredTensor) -> StoredTensor:
    """Return what is left of a matrix beside the values that 8 bits give it."""

    def read() -> Floats:
        exact = tensor.float32()
        return exact - values(quantize(Format.Q8, exact)).reshape(exact.shape)

    return ComputedTensor(tensor.name, tensor.shape, read)


def _whole_groups(tensor: StoredTensor) -> StoredTensor:
    """Return a matrix with columns of 0 up to whole groups of inputs."""
    more = -tensor.cols % GROUP
    if not more:
        return tensor
    shape = (tensor.rows, tensor.cols + more)
    return ComputedTensor(tensor.name, shape, lambda: np.pad(tensor.float32(), ((0, 0), (0, more))))


def _zeros(config: Seq2SeqConfig) -> list[StoredTensor]:
    """Return a unit of rows of 0, if the model's first target token needs one."""
    if not config.zero_start:
        return []
    shape = (UNIT_ROWS, config.hidden_size)
    return [StoredTensor.from_bytes("zeros", shape, BlockType.F32, np.zeros(4 * shape[0] * shape[1], np.uint8))]


def _vectors(config: Seq2SeqConfig, tensors: Tensors) -> Iterator[tuple[str, Floats]]:
    """Yield norms, biases and small tables; biases of fused matrices are fused as these are."""
    known: dict[str, Floats] = {}
    for name, shape in seq2seq_shapes(config).items():
        if len(shape) == 1 or name.endswith(_TABLES):
            known[name] = tensors[name].float32().reshape(shape)
            require_finite(tensors[name], known[name])
    fused = set()
    for name in list(known):
        prefix, _, last = name.rpartition(".")
        for whole, parts in FUSED.items():
            if last == f"{parts[0]}_bias":
                parted = [f"{prefix}.{part}_bias" for part in parts]
                fused.update(parted)
                yield f"{prefix}.{whole}_bias", np.concatenate([known[part] for part in parted])
        if config.gated and last == "up_bias":
            pair = [f"{prefix}.gate_bias", name]
            fused.update(pair)
            yield f"{prefix}.gate_up_bias", np.stack([known[n].reshape(-1, UNIT_ROWS) for n in pair], 1).reshape(-1)
    for name, vector in known.items():
        if name not in fused:
            # As long as the logits that kernels write, and those of rows of 0.
            room = padded_rows(len(vector)) + UNIT_ROWS - len(vector) if name == "head_bias" else 0
            yield name, np.pad(vector, (0, room)) if room else vector
