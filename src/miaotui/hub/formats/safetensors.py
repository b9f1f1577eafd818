"""Reads safetensors files over a memory map, single or sharded by an index.

Owns the layout: length, JSON header, data. Knows no architecture. Invariant: every tensor returned
lies whole within its file, and tensors neither overlap nor leave holes; anything else was a
`ModelError`. An index can name files of its own folder only. Nothing is executed or unpickled.
Source: the format as its authors describe it (https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from miaotui.errors import ModelFormatError, ModelNotFoundError, UnsupportedModelError
from miaotui.hub.formats.lookalikes import looks_like
from miaotui.hub.formats.mapped import map_file
from miaotui.hub.formats.tensors import CORRUPT, TRUNCATED, BlockType, StoredTensor, stored_bytes
from miaotui.hub.formats.untrusted_json import MAX_JSON_BYTES, parse_object, read_object

SINGLE_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
MAX_SHARDS = 1 << 10
_INTEGERS = ("I64", "I32", "U8", "BOOL")
_KINDS = {"F32": BlockType.F32, "F16": BlockType.F16, "BF16": BlockType.BF16}
_HALVES = ("_blocks", "_scales")  # endings of byte tensors that are one matrix of MXFP4 together (gpt-oss)


def read_safetensors(path: str | os.PathLike[str], buffers: Collection[str] = ()) -> Mapping[str, StoredTensor]:
    """Open the file at ``path``, or in the folder ``path`` one file or the shards of an index.

    A scalar is returned as a vector of one. The files stay mapped until the last view is gone. Integers and truth
    values whose name ends in one of ``buffers`` (``position_ids``) are left out; they are no weights.
    Raises `ModelNotFoundError`; `ModelFormatError` for a file that is truncated or corrupt, or an
    index that does not fit its shards; `UnsupportedModelError` for types other than F32, F16, BF16.
    """
    path = Path(path)
    if not path.is_dir():
        return _read_file(path, buffers)
    if (path / SINGLE_NAME).is_file():
        return _read_file(path / SINGLE_NAME, buffers)
    if (path / INDEX_NAME).is_file():
        return _read_shards(path / INDEX_NAME, buffers)
    files = sorted(path.glob("*.safetensors"))
    if len(files) == 1:
        return _read_file(files[0], buffers)
    raise ModelNotFoundError(
        f"{path} holds {len(files)} safetensors files and neither {SINGLE_NAME} nor {INDEX_NAME}; "
        "download the model's folder again, or give the path of one file"
    )


def parse_safetensors(buffer: mmap.mmap | bytes, label: str, buffers: Collection[str] = ()) -> dict[str, StoredTensor]:
    """Read a file held in ``buffer``, named ``label`` in errors; the rest is as in `read_safetensors`."""
    length = int.from_bytes(buffer[:8], "little")
    if buffer[8:9] != b"{":
        raise ModelFormatError(f"{label} is not a safetensors file: {looks_like(buffer)}")
    if length > min(len(buffer) - 8, MAX_JSON_BYTES):
        raise ModelFormatError(
            f"{label} claims a header of {length} bytes, but holds {len(buffer) - 8}, and at most "
            f"{MAX_JSON_BYTES} are allowed; {TRUNCATED}"
        )
    header = parse_object(buffer[8 : 8 + length], f"the header of {label}")
    _check_metadata(header.pop("__metadata__", {}), label)
    entries = {
        name: _entry(f"{label}: tensor {name[:200]!r}", entry, name.rpartition(".")[2] in buffers, name)
        for name, entry in header.items()
    }
    data = np.frombuffer(buffer, np.uint8)[8 + length :]
    _check_layout({name: span for name, (*_, span) in entries.items()}, data.size, label)
    return {
        name: StoredTensor.from_bytes(name, shape, kind, data[start:end])
        for name, (kind, shape, (start, end)) in entries.items()
        if kind is not None
    }


def _read_file(path: Path, buffers: Collection[str]) -> dict[str, StoredTensor]:
    return parse_safetensors(map_file(path), str(path), buffers)


def _read_shards(index: Path, buffers: Collection[str]) -> dict[str, StoredTensor]:
    """Return the tensors that the index lists, each from the shard it names."""
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(map(_is_file_name, weight_map.values())):
        raise ModelFormatError(
            f"{index} must map tensors to *.safetensors files of its own folder, as 'weight_map'; "
            "download it again, from a source that you trust"
        )
    names = sorted(set(weight_map.values()))
    if not 1 <= len(names) <= MAX_SHARDS:
        raise ModelFormatError(f"{index} names {len(names)} files; expected 1 to {MAX_SHARDS}")
    shards = {name: _read_file(index.parent / name, buffers) for name in names}
    weight_map = {tensor: name for tensor, name in weight_map.items() if not _left_out(tensor, shards[name], buffers)}
    missing = [tensor for tensor, name in weight_map.items() if tensor not in shards[name]]
    if missing:
        raise ModelFormatError(
            f"{index} lists {missing[0][:200]!r} in {weight_map[missing[0]]}, which lacks it and "
            f"{len(missing) - 1} more; index and files are of different models: download both again"
        )
    return {tensor: shards[name][tensor] for tensor, name in weight_map.items()}


def _left_out(tensor: str, shard: Mapping[str, StoredTensor], buffers: Collection[str]) -> bool:
    return tensor not in shard and tensor.rpartition(".")[2] in buffers


def _is_file_name(name: object) -> bool:
    """Return whether ``name`` is a plain file name, on any system: no folder, drive or parent."""
    return (
        isinstance(name, str)
        and name.endswith(".safetensors")
        and name == PurePosixPath(name).name == PureWindowsPath(name).name
        and name.isprintable()  # it appears in messages, and must not steer a terminal
    )


def _check_metadata(metadata: object, label: str) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ModelFormatError(f"{label}: '__metadata__' does not map strings to strings; {CORRUPT}")


def _entry(
    label: str, entry: Any, buffer: bool, name: str
) -> tuple[BlockType | None, tuple[int, ...], tuple[int, int]]:
    """Check one tensor's line of the header: its type (None: a buffer to leave out), shape and span of bytes."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ModelFormatError(f"{label} needs exactly dtype, shape and data_offsets; {CORRUPT}")
    dtype, shape, span = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or not _are_sizes(shape) or not _are_sizes(span):
        raise ModelFormatError(f"{label} has a malformed dtype, shape or data_offsets; {CORRUPT}")
    kind = BlockType.U8 if dtype == "U8" and name.endswith(_HALVES) else _KINDS.get(dtype)
    if buffer and dtype in _INTEGERS and len(span) == 2 and span[0] <= span[1]:
        return None, (), (span[0], span[1])
    if kind is None:
        raise UnsupportedModelError(
            f"{label} is of type {dtype[:20]}; expected F32, F16 or BF16: use the model's original "
            "weights, or a GGUF file of it"
        )
    shape = tuple(shape) or (1,)
    size_bytes = stored_bytes(label, shape, kind)
    if len(span) != 2 or span[1] - span[0] != size_bytes:
        raise ModelFormatError(f"{label} takes {size_bytes} bytes, but is said to be at {span}; {CORRUPT}")
    return kind, shape, (span[0], span[1])


def _are_sizes(values: object) -> bool:
    return isinstance(values, list) and all(type(v) is int and v >= 0 for v in values)


def _check_layout(spans: Mapping[str, tuple[int, int]], data_bytes: int, label: str) -> None:
    """Refuse data that overlaps, leaves holes, or ends elsewhere than the file."""
    position = 0
    for name, (start, end) in sorted(spans.items(), key=lambda item: item[1]):
        if start != position:
            raise ModelFormatError(
                f"{label}: tensor {name[:200]!r} starts at {start}, not at {position}, the end of "
                f"the one before; {CORRUPT}"
            )
        position = end
    if position != data_bytes:
        raise ModelFormatError(
            f"{label} holds {data_bytes} bytes of tensors, but its header lists {position}; {TRUNCATED}"
        )
