"""Cost of a model's answer on a machine whose speeds are known: seconds, tokens a second, peak memory.

Owns the arithmetic. Knows speeds as numbers, and of a model only sizes. A decode step reads every matrix once, a prompt
multiplies every weight once for each token; both are divided by the share of the machine's limit that the engine
reaches, and multiplied by what one measured file of the model took beyond its prediction. Invariant: within one format
more bytes never cost less.
"""

from __future__ import annotations

from dataclasses import dataclass

from miaotui.hub.formats.tensors import BlockType
from miaotui.kernels.linear.formats import Format
from miaotui.model.config import ModelConfig
from miaotui.model.packing import packed_format
from miaotui.optimize.pruning.shape import PrunedShape, pruned_config
from miaotui.optimize.quantization.quantize import Kinds
from miaotui.optimize.source import GgufSource, StoredMatrix

PREFILL_SHARE = 0.75  # of the machine's limit, below what the benchmarks show
DECODE_SHARE = 0.85  # of formats that are not below
DECODE_SHARES = {  # of the read limit, by format; docs/models.md
    Format.Q2_K: 1.0,
    Format.Q3_K: 0.95,
    Format.Q4: 0.98,
    Format.Q4M: 0.86,
    Format.Q4_K: 0.95,
    Format.Q5_0: 0.96,
    Format.Q5_1: 0.85,
    Format.Q5_K: 0.81,
    Format.Q6_K: 0.89,
    Format.Q8: 0.95,
    Format.IQ4_XS: 0.92,
    Format.IQ4_NL: 0.95,
}
KV_SCALE_BYTES = 4  # of a head, where its numbers have 8 bits
PROCESS_BYTES = 165_000_000  # interpreter, libraries, kernels
VOCABULARY_BYTES = 420  # of the tokenizer, for each token
ROW_BUFFERS = 512  # rows of a pass


@dataclass(frozen=True)
class CostScale:
    """One file's measured cost beside its prediction: ratios of seconds, and bytes of memory beyond the prediction.

    The same machine runs other files of the same model with the same surcharge.
    """

    decode: float = 1.0
    prefill: float = 1.0
    more_bytes: int = 0


@dataclass(frozen=True)
class MachineRates:
    """Measured rates of a machine, see ``miaotui doctor``, and what one file of the model took beyond them."""

    read_gb_per_s: float
    int8_gmac_per_s: float
    scale: CostScale = CostScale()


@dataclass(frozen=True)
class AnswerCost:
    """Predicted cost of an answer of ``answer`` tokens after a prompt of ``prompt``."""

    tokens_per_s: float  # decode, one stream
    seconds: float  # of the whole answer
    peak_bytes: int


def cost_scale(predicted: AnswerCost, answer: int, tokens_per_s: float, seconds: float, peak: int | None) -> CostScale:
    """Return the scale by which ``predicted`` becomes what was measured of an answer of ``answer`` tokens."""
    decode_s, known_s = max(answer - 1, 0) / tokens_per_s, max(answer - 1, 0) / predicted.tokens_per_s
    prefill = max(seconds - decode_s, 1e-3) / max(predicted.seconds - known_s, 1e-9)
    more = 0 if peak is None else peak - predicted.peak_bytes
    return CostScale(predicted.tokens_per_s / tokens_per_s, prefill, more)


def answer_cost(
    source: GgufSource,
    kinds: Kinds,
    rates: MachineRates,
    prompt: int,
    answer: int,
    shape: PrunedShape | None = None,
    kv: str = "f16",
) -> AnswerCost:
    """Return what an answer costs when the matrices have these types, and the model this shape (None: its own)."""
    scale = rates.scale
    config = source.config if shape is None else pruned_config(source.config, shape)
    matrices = source.matrices if shape is None else shaped_matrices(source, shape)
    packed = {one.name: packed_bytes(one, kinds[one.name]) for one in matrices}
    lookup = [] if config.tied_head else [one.name for one in matrices if one.product == "embed"]
    read, multiply = rates.read_gb_per_s * 1e9, rates.int8_gmac_per_s * 1e9
    steps = [(size, kinds[name]) for name, size in packed.items() if name not in lookup]
    step_bytes = sum(size for size, _ in steps)
    weights_s = (
        sum(size / DECODE_SHARES.get(packed_format(kind, Format.Q8), DECODE_SHARE) for size, kind in steps) / read
    )
    token_bytes = kv_token_bytes(config, kv)
    token_s = weights_s + (prompt + answer / 2) * token_bytes / read / DECODE_SHARE
    token_s *= scale.decode
    weights = sum(one.rows * one.cols for one in matrices if one.layer >= 0)
    attention = prompt * (prompt + 1) * config.n_layers * config.n_heads * config.head_dim
    head = config.vocab_size * config.hidden_size
    prefill_s = max(step_bytes / read, (prompt * weights + head + attention) / multiply) / PREFILL_SHARE
    prefill_s *= scale.prefill
    buffers = 4 * ROW_BUFFERS * (config.hidden_size * 8 + config.ffn_size * 3) + 4 * 9 * config.vocab_size
    # rows of an embedding of its own are read from the file, a few at a time
    peak = step_bytes + (prompt + answer) * token_bytes + PROCESS_BYTES + buffers
    peak += VOCABULARY_BYTES * config.vocab_size + scale.more_bytes
    return AnswerCost(1 / token_s, prefill_s + max(answer - 1, 0) * token_s, int(peak))


def shaped_matrices(source: GgufSource, shape: PrunedShape) -> list[StoredMatrix]:
    """Return the matrices of a pruned model, under the names that they have in the original."""
    config, kept = source.config, set(shape.layers)
    heads = shape.kv_heads / config.n_kv_heads
    channels = shape.ffn / config.ffn_size
    rows = {"q": heads, "k": heads, "v": heads, "gate": channels, "up": channels}
    cols = {"o": heads, "down": channels}
    found = []
    for one in source.matrices:
        if one.layer >= 0 and one.layer not in kept:
            continue
        part = one.product.split(".")[-1]
        found.append(one._replace(rows=int(one.rows * rows.get(part, 1)), cols=int(one.cols * cols.get(part, 1))))
    return found


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


def kv_token_bytes(config: ModelConfig, kv: str = "f16") -> int:
    """Return the bytes of one token's keys and values, stored as ``kv`` (f16 or int8)."""
    sizes = [2 * dim if kv == "f16" else dim + KV_SCALE_BYTES for dim in (config.head_dim, config.value_dim)]
    return config.n_layers * config.n_kv_heads * sum(sizes)
