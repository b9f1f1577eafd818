"""Cost of a model's answer on a machine whose speeds are known: seconds, tokens a second, peak memory.

Owns the arithmetic. Knows speeds as numbers, and of a model only sizes. A decode step reads every matrix once, a prompt
multiplies every weight once for each token; both are divided by the share of the machine's limit that the engine
reaches. Invariant: more bytes never cost less.
"""

from __future__ import annotations

from dataclasses import dataclass

from miaotui.hub.formats.tensors import BlockType
from miaotui.kernels.linear.formats import Format
from miaotui.model.config import ModelConfig
from miaotui.model.packing import packed_format
from miaotui.optimize.quantization.quantize import Kinds
from miaotui.optimize.source import GgufSource, StoredMatrix

PREFILL_SHARE, DECODE_SHARE = 0.75, 0.85  # of the machine's limits, below those that the benchmarks show
KV_BYTES = 2  # of a key's or value's number
PROCESS_BYTES = 165_000_000  # interpreter, libraries, kernels
VOCABULARY_BYTES = 420  # of the tokenizer, for each token
ROW_BUFFERS = 512  # rows of a pass


@dataclass(frozen=True)
class MachineRates:
    """Measured rates of a machine, see ``miaotui doctor``."""

    read_gb_per_s: float
    int8_gmac_per_s: float


@dataclass(frozen=True)
class AnswerCost:
    """Predicted cost of an answer of ``answer`` tokens after a prompt of ``prompt``."""

    tokens_per_s: float  # decode, one stream
    seconds: float  # of the whole answer
    peak_bytes: int


def answer_cost(source: GgufSource, kinds: Kinds, rates: MachineRates, prompt: int, answer: int) -> AnswerCost:
    """Return what an answer costs when the matrices have these types."""
    config = source.config
    packed = {one.name: packed_bytes(one, kinds[one.name]) for one in source.matrices}
    lookup = [] if config.tied_head else [one.name for one in source.matrices if one.product == "embed"]
    step_bytes = sum(size for name, size in packed.items() if name not in lookup)
    weights = sum(one.rows * one.cols for one in source.matrices if one.layer >= 0)
    token_bytes = kv_token_bytes(config)
    read, multiply = rates.read_gb_per_s * 1e9, rates.int8_gmac_per_s * 1e9
    token_s = (step_bytes + (prompt + answer / 2) * token_bytes) / read / DECODE_SHARE
    attention = prompt * (prompt + 1) * config.n_layers * config.n_heads * config.head_dim
    head = config.vocab_size * config.hidden_size
    prefill_s = max(step_bytes / read, (prompt * weights + head + attention) / multiply) / PREFILL_SHARE
    buffers = 4 * ROW_BUFFERS * (config.hidden_size * 8 + config.ffn_size * 3) + 4 * 9 * config.vocab_size
    peak = sum(packed.values()) + (prompt + answer) * token_bytes + PROCESS_BYTES + buffers
    peak += VOCABULARY_BYTES * config.vocab_size
    return AnswerCost(1 / token_s, prefill_s + max(answer - 1, 0) * token_s, int(peak))


def work_bytes(source: GgufSource, calibration_tokens: int, probe_tokens: int) -> int:
    """Return the memory that an optimisation itself takes: moments, factors, streams, and logits of the probe."""
    config, widest = source.config, max(one.cols for one in source.matrices)
    inputs = {(one.layer, one.cols, one.product.rsplit(".", 1)[-1][:1]) for one in source.matrices}
    moments = max(
        sum(4 * cols * cols for at, cols, _ in inputs if at == layer)
        for layer in {one.layer for one in source.matrices}
    )
    factors = 40 * widest * widest  # of one moment: two float64 and six float32 matrices
    streams = 4 * config.hidden_size * (3 * calibration_tokens + 2 * probe_tokens * len(source.matrices))
    logits = 4 * config.vocab_size * (4 * probe_tokens + 2 * config.hidden_size)
    return PROCESS_BYTES + moments + factors + streams + logits


def packed_bytes(matrix: StoredMatrix, kind: BlockType) -> int:
    """Return the bytes of a matrix as the engine keeps it."""
    return int(matrix.rows * matrix.cols * packed_format(kind, Format.Q8).bits_per_weight / 8)


def kv_token_bytes(config: ModelConfig) -> int:
    """Return the bytes of one token's keys and values."""
    return KV_BYTES * config.n_layers * config.n_kv_heads * (config.head_dim + config.value_dim)
