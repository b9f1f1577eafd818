"""Builds the CPU backend and the scheduler for it: files to packed weights, program, pages.

Decides sizes from the model and the machine: how long a context, how many pages of keys and values,
how many rows in a pass. Knows nothing of prompts. Invariant: a request that fits the context fits
the pages, when it runs alone.
"""

from __future__ import annotations

from pathlib import Path

from miaotui.backends.backend import BackendLimits
from miaotui.backends.cpu.backend import CpuBackend
from miaotui.backends.cpu.draw import KERNELS as DRAW_KERNELS
from miaotui.backends.cpu.multistep import MOST_TOKENS
from miaotui.backends.cpu.program import Program, require_runnable, rotation_tables
from miaotui.backends.cpu.runner import Runner
from miaotui.backends.cpu.workspace import KvPages, Workspace
from miaotui.backends.options import Built, EngineOptions
from miaotui.config import Settings
from miaotui.errors import RequestError
from miaotui.hub.store import PackedStore
from miaotui.kernels.linear.formats import Format
from miaotui.kernels.platform.cpu import probe
from miaotui.kernels.runtime import compiled
from miaotui.kernels.runtime.thread_pool import KERNELS as TEAM_KERNELS
from miaotui.kernels.runtime.thread_pool import shared_pool
from miaotui.model.config import ModelConfig
from miaotui.model.packed import PackedModel, load_packed
from miaotui.schedule.config import ScheduleConfig
from miaotui.schedule.pages.pool import PAGE_SIZE, pages_for
from miaotui.schedule.scheduler import Scheduler
from miaotui.types import Progress

MAX_CONTEXT = 32_768  # by default; ask for more explicitly
KV_SHARE = 0.25  # of the machine's memory, at most, for keys and values
LEAST_KV_TOKENS = 16_384
LOGITS_BYTES = 32 << 20  # of logits of drafted tokens, about
LEAST_DRAFTS, MOST_DRAFTS = 8, 64  # drafted tokens that a pass can verify


def build(
    path: Path, config: ModelConfig, options: EngineOptions, settings: Settings, progress: Progress | None
) -> Built:
    """Pack (or map) the weights, compile (or load) the kernels, reserve memory.

    Raises `UnsupportedModelError` for shapes that the kernels cannot run, `CacheError` when there
    is no room for the packed weights, and what `open_model` raises.
    """
    require_runnable(config)
    store = PackedStore(settings.folder("packed"), settings.packed_max_bytes)
    wanted = options.format or Format.Q8
    weights = load_packed(path, store, wanted, _told(progress, "packing"))
    try:
        return assemble(config, weights, options, progress)
    except BaseException:
        weights.close()
        raise


def assemble(
    config: ModelConfig, weights: PackedModel, options: EngineOptions, progress: Progress | None = None
) -> Built:
    """Build from packed weights: the rest of `build`."""
    context, n_pages = _sizes(config, options)
    spare = pages_for(context)
    chunk_size = min(options.chunk_size, context)
    rows = max(chunk_size, options.max_sequences)
    draft_rows = min(max(LOGITS_BYTES // (4 * config.vocab_size), LEAST_DRAFTS), MOST_DRAFTS)
    try:
        workspace = Workspace(config, rows, options.max_sequences + draft_rows)
        pages = KvPages(config, n_pages + spare, options.kv)
    except (MemoryError, OSError, ValueError) as error:  # mmap says OSError, NumPy either of the others
        raise RequestError(
            f"there is not enough memory for a context of {context:,} tokens, {n_pages * PAGE_SIZE:,} "
            f"tokens of keys and values and passes of {rows:,} rows: lower context, kv_tokens, "
            "chunk_size or max_sequences, or keep keys and values as int8"
        ) from error
    compiled.prepare([*TEAM_KERNELS, *DRAW_KERNELS], _told(progress, "compiling"))
    tables = rotation_tables(config, context)
    program = Program(config, weights, workspace, pages, tables, _told(progress, "compiling"))
    schedule = ScheduleConfig(
        n_pages=n_pages,
        context=context,
        max_rows=rows,
        max_sequences=options.max_sequences,
        chunk_size=chunk_size,
        reuse_prefix=options.reuse_prefix,
        scored_rows=draft_rows,
    )
    limits = BackendLimits(
        context=context,
        pages=n_pages,
        rows=rows,
        logits_rows=workspace.max_logits,
        draft_rows=draft_rows,
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        layers=range(config.n_layers),
        passes=options.most_passes,
        run_tokens=MOST_TOKENS,
    )
    return Built(CpuBackend(Runner(program, shared_pool(options.threads)), limits), Scheduler(schedule))


def _sizes(config: ModelConfig, options: EngineOptions) -> tuple[int, int]:
    """Context in tokens, and pages of keys and values.

    By default the pages hold four contexts, or 16,384 tokens if that is more, but take no more than
    a quarter of the memory; a context never exceeds them.
    """
    context = min(options.context or MAX_CONTEXT, config.context_length)
    tokens = options.kv_tokens
    if tokens is None:
        memory = probe().memory_bytes or 8 << 30
        most = int(memory * KV_SHARE) // KvPages.bytes_per_token(config, options.kv)
        least = context if options.context else 1  # asked for: it is given
        tokens = max(min(max(4 * context, LEAST_KV_TOKENS), most), least)
    n_pages = pages_for(tokens)
    return min(context, n_pages * PAGE_SIZE), n_pages


def _told(progress: Progress | None, what: str) -> Progress | None:
    if progress is None:
        return None
    return lambda _name, done, total: progress(what, done, total)
