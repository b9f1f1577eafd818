"""Model files with experts: random weights in the layer shape of Qwen3-30B-A3B, the tokenizer of a real model.

Owns the shape, and the bytes that a step of one stream has to read. Knows no engine. Invariant: the same layers and
type give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

from benchmarks.decode.block_files import kind_of, random_blocks
from benchmarks.peers.models import ModelFile, copy_vocabulary, describe, writing

ARCHITECTURE = "qwen3moe"
CONTEXT = 8192


@dataclass(frozen=True)
class ExpertsShape:
    """Dimensions of a layer of Qwen3-30B-A3B."""

    hidden: int = 2048
    heads: int = 32
    kv_heads: int = 4
    head_dim: int = 128
    experts: int = 128
    chosen: int = 8
    size: int = 768


SHAPE = ExpertsShape()
_EXPERTS = ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")


def random_experts(vocabulary: Path, folder: Path, layers: int, name: str, shape: ExpertsShape = SHAPE) -> Path:
    """Write, once, a random model with all matrices of type ``name`` and float32 routers; return the file."""
    target = folder / f"random-qwen3-30b-a3b-{layers}.{name}.gguf"
    if target.exists():
        return target
    reader, rng, kind = gguf.GGUFReader(vocabulary), np.random.default_rng(20_262), kind_of(name)
    with writing(target, ARCHITECTURE) as writer:
        n_vocab = copy_vocabulary(reader, writer)
        _describe(writer, shape, layers)
        for matrix, (*outer, columns) in _matrices(shape, layers, n_vocab):
            blocks = random_blocks(rng, kind, int(np.prod(outer)), columns)
            writer.add_tensor(matrix, blocks.reshape(*outer, -1), raw_dtype=kind)
        for layer in range(layers):
            router = rng.standard_normal((shape.experts, shape.hidden), np.float32) / np.sqrt(shape.hidden)
            writer.add_tensor(f"blk.{layer}.ffn_gate_inp.weight", router.astype(np.float32))
        for norm, width in _norms(shape, layers):
            writer.add_tensor(norm, np.ones(width, np.float32))
    return target


def describe_experts(name: str, path: Path, shape: ExpertsShape = SHAPE) -> ModelFile:
    """Count what one decode step of one stream reads: of each layer's experts the chosen ones."""
    found = describe(name, path)
    tensors = gguf.GGUFReader(path).tensors
    stored = sum(int(t.n_bytes) for t in tensors if any(part in t.name for part in _EXPERTS))
    read = stored * shape.chosen // shape.experts
    return ModelFile(name, path, found.sha256, found.weights, found.weight_bytes + read, found.kv_bytes_per_token)


def _describe(writer: gguf.GGUFWriter, shape: ExpertsShape, layers: int) -> None:
    writer.add_block_count(layers)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.size * shape.chosen)
    writer.add_expert_feed_forward_length(shape.size)
    writer.add_expert_count(shape.experts)
    writer.add_expert_used_count(shape.chosen)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)
    writer.add_rope_dimension_count(shape.head_dim)


def _matrices(shape: ExpertsShape, layers: int, n_vocab: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "token_embd.weight", (n_vocab, shape.hidden)
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    for layer in range(layers):
        prefix = f"blk.{layer}."
        yield prefix + "attn_q.weight", (queries, shape.hidden)
        yield prefix + "attn_k.weight", (keys, shape.hidden)
        yield prefix + "attn_v.weight", (keys, shape.hidden)
        yield prefix + "attn_output.weight", (shape.hidden, queries)
        yield prefix + "ffn_gate_exps.weight", (shape.experts, shape.size, shape.hidden)
        yield prefix + "ffn_up_exps.weight", (shape.experts, shape.size, shape.hidden)
        yield prefix + "ffn_down_exps.weight", (shape.experts, shape.hidden, shape.size)


def _norms(shape: ExpertsShape, layers: int) -> Iterator[tuple[str, int]]:
    yield "output_norm.weight", shape.hidden
    for layer in range(layers):
        yield f"blk.{layer}.attn_norm.weight", shape.hidden
        yield f"blk.{layer}.ffn_norm.weight", shape.hidden
        yield f"blk.{layer}.attn_q_norm.weight", shape.head_dim
        yield f"blk.{layer}.attn_k_norm.weight", shape.head_dim
