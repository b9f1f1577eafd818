"""The model files of the benchmark: every engine reads the same bytes.

Owns two GGUF files, made once and kept: SmolLM2-135M with its Q4_1 matrices requantized to Q4_0
(llama.cpp's fastest 4-bit format; the tied embedding keeps its Q8_0 blocks), and a seeded random
model of Llama 3.2 1B's shape, all matrices Q4_0. The second borrows SmolLM2's vocabulary of 49,152,
hence 1.07 B weights instead of 1.24 B. Knows nothing of engines. Invariant: the same source and
seed give the same bytes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.quants import dequantize, quantize

Q4_0_BLOCK_BYTES = 18  # float16 scale and 32 nibbles
RANDOM_SEED = 20_251
RANDOM_WEIGHT_STD = 0.02


@dataclass(frozen=True)
class LlamaShape:
    """Dimensions of a Llama-shaped model."""

    layers: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int


LLAMA_1B = LlamaShape(16, 2048, 8192, 32, 8, 64, 8192)


@dataclass(frozen=True)
class ModelFile:
    """A GGUF file and what one decode step has to read of it."""

    name: str
    path: Path
    sha256: str
    weights: int
    weight_bytes: int  # matrices read once per step, as stored in the file (the tied head included)
    kv_bytes_per_token: int  # float16 keys and values of all layers


def smollm2_q4_0(source: Path, folder: Path) -> Path:
    """Copy ``source`` with its Q4_1 matrices requantized to Q4_0; return the new file."""
    target = folder / "SmolLM2-135M-Instruct.Q4_0.gguf"
    if target.exists():
        return target
    reader = gguf.GGUFReader(source)
    with writing(target) as writer:
        _copy_metadata(reader, writer, skip=("general.architecture", "general.file_type"))
        writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
        for tensor in reader.tensors:
            data, kind = tensor.data, tensor.tensor_type
            if kind == gguf.GGMLQuantizationType.Q4_1:
                kind = gguf.GGMLQuantizationType.Q4_0
                data = quantize(dequantize(data, tensor.tensor_type), kind)
            writer.add_tensor(tensor.name, data, raw_dtype=kind)
    return target


def random_llama_1b(vocabulary: Path, folder: Path, shape: LlamaShape = LLAMA_1B) -> Path:
    """Write a seeded random Q4_0 model with the tokenizer of the GGUF file ``vocabulary``."""
    target = folder / "random-llama-1b.Q4_0.gguf"
    if target.exists():
        return target
    reader = gguf.GGUFReader(vocabulary)
    with writing(target) as writer:
        n_vocab = copy_vocabulary(reader, writer)
        write_shape(writer, shape, n_vocab)
        rng = np.random.default_rng(RANDOM_SEED)
        for name, rows, columns in matrices(shape, n_vocab):
            blocks = _random_q4_0(rng, rows, columns)
            writer.add_tensor(name, blocks, raw_dtype=gguf.GGMLQuantizationType.Q4_0)
        for name in norms(shape):
            writer.add_tensor(name, np.ones(shape.hidden, np.float32))
    return target


def describe(name: str, path: Path) -> ModelFile:
    """Count what one decode step reads of the GGUF file at ``path``."""
    reader = gguf.GGUFReader(path)
    names = {tensor.name for tensor in reader.tensors}
    untied = "output.weight" in names  # then the embedding is only looked up, a row at a time
    matrices = [t for t in reader.tensors if len(t.shape) == 2 and not (untied and t.name == "token_embd.weight")]
    kv_rows = sum(int(t.shape[1]) for t in matrices if ".attn_k." in t.name or ".attn_v." in t.name)
    return ModelFile(
        name=name,
        path=path,
        sha256=_sha256(path),
        weights=sum(int(t.n_elements) for t in reader.tensors),
        weight_bytes=sum(int(t.n_bytes) for t in matrices),
        kv_bytes_per_token=2 * kv_rows,
    )


class _Writing:
    """A GGUF writer whose file appears under its name only when it is whole."""

    def __init__(self, target: Path, architecture: str) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        self._target = target
        self._part = target.with_suffix(".part")
        self._writer = gguf.GGUFWriter(self._part, architecture)

    def __enter__(self) -> gguf.GGUFWriter:
        return self._writer

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._writer.write_header_to_file()
            self._writer.write_kv_data_to_file()
            self._writer.write_tensors_to_file()
        self._writer.close()
        if kind is None:
            os.replace(self._part, self._target)
        else:
            self._part.unlink(missing_ok=True)


def writing(target: Path, architecture: str = "llama") -> _Writing:
    """Return a context whose value is a writer of ``target``."""
    return _Writing(target, architecture)


def copy_vocabulary(reader: gguf.GGUFReader, writer: gguf.GGUFWriter) -> int:
    """Copy the tokenizer of a file; return the number of its tokens."""
    _copy_metadata(reader, writer, keep="tokenizer.ggml.")
    return len(_field(reader, "tokenizer.ggml.tokens"))


def _copy_metadata(
    reader: gguf.GGUFReader, writer: gguf.GGUFWriter, keep: str = "", skip: tuple[str, ...] = ()
) -> None:
    for field in reader.fields.values():
        name = field.name
        if name.startswith("GGUF.") or not name.startswith(keep) or name in skip:
            continue
        item = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], sub_type=item)


def _field(reader: gguf.GGUFReader, name: str) -> Any:
    field = reader.get_field(name)
    if field is None:
        raise ValueError(f"{name} is missing from the metadata; expected a GGUF file with its tokenizer")
    return field.contents()


def write_shape(writer: gguf.GGUFWriter, shape: LlamaShape, n_vocab: int) -> None:
    writer.add_name("Random weights of Llama 3.2 1B's shape")
    writer.add_block_count(shape.layers)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(500_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(n_vocab)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    writer.add_quantization_version(2)


def matrices(shape: LlamaShape, n_vocab: int) -> Iterator[tuple[str, int, int]]:
    yield "token_embd.weight", n_vocab, shape.hidden
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    for layer in range(shape.layers):
        yield f"blk.{layer}.attn_q.weight", queries, shape.hidden
        yield f"blk.{layer}.attn_k.weight", keys, shape.hidden
        yield f"blk.{layer}.attn_v.weight", keys, shape.hidden
        yield f"blk.{layer}.attn_output.weight", shape.hidden, queries
        yield f"blk.{layer}.ffn_gate.weight", shape.ffn, shape.hidden
        yield f"blk.{layer}.ffn_up.weight", shape.ffn, shape.hidden
        yield f"blk.{layer}.ffn_down.weight", shape.hidden, shape.ffn


def norms(shape: LlamaShape) -> Iterator[str]:
    yield "output_norm.weight"
    for layer in range(shape.layers):
        yield f"blk.{layer}.attn_norm.weight"
        yield f"blk.{layer}.ffn_norm.weight"


def _random_q4_0(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Q4_0 blocks ``[rows, columns / 32 * 18]``: uniform nibbles (std 4.6), scaled to the std."""
    blocks = rng.integers(0, 256, (rows, columns // 32, Q4_0_BLOCK_BYTES), dtype=np.uint8)
    scale = RANDOM_WEIGHT_STD / 4.6 * rng.uniform(0.8, 1.2, (rows, columns // 32))
    blocks[:, :, :2] = scale.astype(np.float16)[..., None].view(np.uint8)
    return blocks.reshape(rows, -1)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()
