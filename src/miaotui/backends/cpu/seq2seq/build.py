"""Building the CPU backend of an encoder-decoder: opened files to packed weights, programs, memory.

Owns the order in which they are made, and the sizes of a pass. Knows no search. Invariant: either everything is made,
or the weights are closed again.
"""

from __future__ import annotations

from miaotui.backends.cpu.encoder.backend import most_tokens, pass_rows
from miaotui.backends.cpu.seq2seq.backend import CpuSeq2Seq
from miaotui.backends.cpu.seq2seq.packed import load_packed_seq2seq
from miaotui.backends.cpu.seq2seq.programs import SourceProgram, TargetProgram
from miaotui.backends.cpu.seq2seq.stack import require_runnable_seq2seq
from miaotui.backends.cpu.seq2seq.workspace import SourcePanels, SourceSpace, TargetSlots, TargetSpace
from miaotui.backends.seq2seq_backend import Seq2SeqLimits
from miaotui.config import Settings
from miaotui.errors import RequestError
from miaotui.hub.store import PackedStore
from miaotui.kernels.attention.fields import PAGE_TOKENS
from miaotui.kernels.linear.formats import Format
from miaotui.kernels.runtime.thread_pool import ThreadPool, shared_pool
from miaotui.model.packed import PackedModel
from miaotui.model.seq2seq.config import Seq2SeqConfig
from miaotui.model.seq2seq.opened import OpenedSeq2Seq
from miaotui.types import Progress, progress_as

SOURCE_ROWS = 512  # encoded at once, unless one source may be longer: targets wait meanwhile
TARGET_ROWS = 128
SOURCES = 64
KEPT_ROWS = 1 << 14
TOKENS_OF_A_SOURCE = 64  # on average, for which memory is reserved
WINDOWS, MOST_BEAMS = 8, 2  # sources of sound, which are all of full length; whole beams of each, as beams share rows


def build_seq2seq(
    opened: OpenedSeq2Seq,
    settings: Settings,
    *,
    form: Format = Format.Q8,
    threads: int | None = None,
    pool: ThreadPool | None = None,
    limits: Seq2SeqLimits | None = None,
    progress: Progress | None = None,
) -> CpuSeq2Seq:
    """Pack (or map) the weights of an opened model, compile (or load) the kernels, reserve memory.

    ``form`` is the format of weights that the file stores as floats; `Format.F32` computes everything in float32.
    ``pool`` are threads that other models use, too; without one the process's pool of ``threads`` serves. Raises
    `UnsupportedModelError` for shapes that the kernels cannot run, `CacheError` where the packed weights have no room,
    and `RequestError` where there is no memory for ``limits``.
    """
    config = opened.config
    require_runnable_seq2seq(config)
    store = PackedStore(settings.folder("packed"), settings.packed_max_bytes)
    weights = load_packed_seq2seq(opened.folder, config, opened.weights, store, form, progress)
    try:
        return assemble_seq2seq(config, weights, pool or shared_pool(threads), limits, progress)
    except BaseException:
        weights.close()
        raise


def seq2seq_limits(config: Seq2SeqConfig) -> Seq2SeqLimits:
    """Return the sizes of a pass that a model has by default."""
    source = min(config.encoder.max_tokens, most_tokens(config.head_dim))
    target = config.decoder.max_tokens
    rows = max(SOURCE_ROWS, source)
    if config.mel_bins:
        return Seq2SeqLimits(source, rows, target, max(TARGET_ROWS, target), WINDOWS, WINDOWS * MOST_BEAMS * target)
    return Seq2SeqLimits(source, rows, target, TARGET_ROWS, SOURCES, max(KEPT_ROWS, 2 * target))


def assemble_seq2seq(
    config: Seq2SeqConfig,
    weights: PackedModel,
    pool: ThreadPool,
    limits: Seq2SeqLimits | None = None,
    progress: Progress | None = None,
) -> CpuSeq2Seq:
    """Build from packed weights: the rest of `build_seq2seq`."""
    limits = limits or seq2seq_limits(config)
    floating = weights.matrix("embed").format is Format.F32
    longest = -(-limits.source_tokens // PAGE_TOKENS)
    usual = longest if config.mel_bins else min(longest, TOKENS_OF_A_SOURCE // PAGE_TOKENS)
    panels = longest + limits.sources * usual
    rows = max(limits.source_tokens, min(limits.source_rows, pass_rows(pool.size)))
    try:
        kept, slots = SourcePanels.of(config, panels), TargetSlots.of(config, limits.kept_rows)
        sources = SourceSpace(config, rows, floating)
        targets = TargetSpace(config, limits.target_rows, floating)
    except (MemoryError, OSError, ValueError) as error:  # mmap says OSError, NumPy either of the others
        raise RequestError(
            f"there is not enough memory for sources of {limits.source_tokens:,} tokens and {limits.kept_rows:,} rows "
            "of targets: close other programs, or choose a smaller model"
        ) from error
    told = progress_as(progress, "compiling")
    encoder = SourceProgram(config, weights, sources, kept, limits.source_tokens)
    decoder = TargetProgram(config, weights, targets, kept, slots, limits.target_tokens)
    for program in (encoder, decoder):
        program.prepare(told)
    return CpuSeq2Seq(weights, encoder, decoder, pool, limits, kept)
