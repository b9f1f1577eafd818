"""Building the CPU backend of an encoder: opened files to packed weights, program, memory.

Owns the order in which they are made, and the sizes of a pass. Knows nothing of heads. Invariant: either everything is
made, or the weights are closed again.
"""

from __future__ import annotations

from pathlib import Path

from miaotui.backends.cpu.encoder.backend import CpuEncoder, most_tokens, reserved
from miaotui.backends.cpu.encoder.packed import load_packed_encoder
from miaotui.backends.cpu.encoder.program import EncoderProgram, require_runnable_encoder
from miaotui.backends.cpu.encoder.workspace import EncoderWorkspace
from miaotui.backends.cpu.workspace import rotation_tables
from miaotui.backends.encoder_backend import EncoderLimits
from miaotui.config import Settings
from miaotui.errors import RequestError
from miaotui.hub.store import PackedStore
from miaotui.kernels.linear.formats import Format
from miaotui.kernels.runtime.thread_pool import ThreadPool, shared_pool
from miaotui.model.encoder.config import EncoderConfig
from miaotui.model.encoder.opened import OpenedEncoder
from miaotui.model.packed import PackedModel
from miaotui.types import Progress, progress_as

MOST_ROWS = 2048  # that are taken at once, unless one text may be longer
MAX_TEXT_TOKENS = 32_768  # of one text, whatever the model would take


def build_encoder(
    path: Path,
    opened: OpenedEncoder,
    settings: Settings,
    *,
    form: Format = Format.Q8,
    threads: int | ThreadPool | None = None,
    limits: EncoderLimits | None = None,
    progress: Progress | None = None,
    wide: bool = True,
) -> CpuEncoder:
    """Pack (or map) the weights of the encoder at ``path``, compile (or load) the kernels, reserve memory.

    ``form`` is the format of weights that the file stores as floats; `Format.F32` computes everything in float32.
    ``wide``: activations have 13 bits after norms; else 8, with the channels in order of size where they can be.
    ``threads`` is a pool that other models use, too, or the size of the process's pool that serves. Raises
    `UnsupportedModelError` for shapes that the kernels cannot run, `CacheError` where the packed weights have no room,
    and `RequestError` where there is no memory for ``limits``.
    """
    require_runnable_encoder(opened.config)
    store = PackedStore(settings.folder("packed"), settings.packed_max_bytes)
    ordered = not wide and form is not Format.F32
    weights = load_packed_encoder(path, opened.config, opened.weights, store, form, progress, ordered=ordered)
    try:
        pool = threads if isinstance(threads, ThreadPool) else shared_pool(threads)
        return assemble_encoder(opened.config, weights, pool, limits, progress, wide=wide)
    except BaseException:
        weights.close()
        raise


def encoder_limits(config: EncoderConfig) -> EncoderLimits:
    """Return the sizes of a pass that a model has by default."""
    tokens = min(config.max_tokens, MAX_TEXT_TOKENS, most_tokens(config.head_dim))
    return EncoderLimits(max(MOST_ROWS, tokens), tokens)


def assemble_encoder(
    config: EncoderConfig,
    weights: PackedModel,
    pool: ThreadPool,
    limits: EncoderLimits | None = None,
    progress: Progress | None = None,
    *,
    wide: bool = True,
) -> CpuEncoder:
    """Build from packed weights: the rest of `build_encoder`."""
    limits = limits or encoder_limits(config)
    most = min(config.max_tokens, most_tokens(config.head_dim))
    if limits.tokens > most:
        raise RequestError(f"the model takes texts of up to {most:,} tokens, not {limits.tokens:,}: lower the limit")
    floating = Format.F32 in weights.formats
    try:
        workspace = EncoderWorkspace(config, *reserved(limits, pool.size), floating, wide=wide)
        rotations = rotation_tables(config, limits.tokens)
    except (MemoryError, OSError, ValueError) as error:  # mmap says OSError, NumPy either of the others
        raise RequestError(
            f"there is not enough memory for texts of {limits.tokens:,} tokens: lower max_tokens"
        ) from error
    program = EncoderProgram(config, weights, workspace, rotations, limits.tokens, progress_as(progress, "compiling"))
    return CpuEncoder(program, pool, limits)
