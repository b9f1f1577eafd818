"""Puts an engine together: files to packed weights, program, pages, scheduler.

Decides sizes from the model and the machine: how long a context, how many pages of keys and values,
how many rows in a pass. Knows nothing of prompts. Invariant: a request that fits the context fits
the pages, when it runs alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from miaotui.backends.cpu.draw import KERNELS as DRAW_KERNELS
from miaotui.backends.cpu.multistep import MOST_PASSES
from miaotui.backends.cpu.program import Program, require_runnable, rotation_tables
from miaotui.backends.cpu.runner import Runner
from miaotui.backends.cpu.workspace import KvKind, KvPages, Workspace
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

Progress = Callable[[str, int, int | None], None]  # (what is being done, done, of)

MAX_CONTEXT = 32_768  # by default; ask for more explicitly
KV_SHARE = 0.25  # of the machine's memory, at most, for keys and values
LEAST_KV_TOKENS = 16_384
LOGITS_BYTES = 32 << 20  # of logits of drafted tokens, about
LEAST_DRAFTS, MOST_DRAFTS = 8, 64  # drafted tokens that a pass can verify
MAX_OPTION = 1 << 27


@dataclass(frozen=True)
class EngineOptions:
    """How to run a model. None: chosen from the model and the machine.

    ``format`` is how weights stored as floats are packed; ``context`` bounds prompt plus answer and
    ``kv_tokens`` says for how many tokens, over all requests, keys and values are kept;
    ``chunk_size`` is how many prompt tokens a pass takes at most; up to ``most_passes`` follow each other
    before what they bring is looked at, fewer when that takes long. Raises `RequestError` for values
    out of range.
    """

    format: Format | None = None
    threads: int | None = None
    kv: KvKind = "f16"
    context: int | None = None
    kv_tokens: int | None = None
    max_sequences: int = 16
    chunk_size: int = 512
    reuse_prefix: bool = True
    most_passes: int = MOST_PASSES

    def __post_init__(self) -> None:
        for name in ("threads", "context", "kv_tokens", "max_sequences", "chunk_size"):
            value = getattr(self, name)
            optional = value is None and name not in ("max_sequences", "chunk_size")
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not optional and not (whole and 1 <= value <= MAX_OPTION):
                raise RequestError(f"{name} must be a whole number from 1 to {MAX_OPTION:,}, not {value!r}")
        if not 1 <= self.most_passes <= MOST_PASSES:
            raise RequestError(f"most_passes must be 1 to {MOST_PASSES}, not {self.most_passes!r}")
        if self.format is Format.F32:
            raise RequestError("format must be q4, q4m or q8: products are not made in float32")
        if self.kv not in ("f16", "int8"):
            raise RequestError(f"kv must be 'f16' or 'int8', not {self.kv!r}")


@dataclass(frozen=True)
class Built:
    """An engine's parts."""

    runner: Runner
    scheduler: Scheduler
    weights: PackedModel
    context: int  # tokens: the longest prompt plus answer
    draft_rows: int  # drafted tokens that one pass can verify, over all sequences
    spare_pages: range  # pages outside the scheduler's reach, enough for one whole context
    most_passes: int = 1  # that may follow each other


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
    """What `build` does after packing."""
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
    runner = Runner(program, shared_pool(options.threads))
    beyond = range(n_pages, n_pages + spare)
    return Built(runner, Scheduler(schedule), weights, context, draft_rows, beyond, options.most_passes)


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


def _told(progress: Progress | None, what: str) -> Callable[[str, int, int], None] | None:
    if progress is None:
        return None
    return lambda _name, done, total: progress(what, done, total)
