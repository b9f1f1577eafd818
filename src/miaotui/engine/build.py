"""Puts an engine together: files to packed weights, program, pages, scheduler.

Decides sizes from the model and the machine: how long a context, how many pages of keys and values, how many rows in a
pass. Knows nothing of prompts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from miaotui.config import Settings
from miaotui.engine.draw import KERNELS as DRAW_KERNELS
from miaotui.engine.runner import Runner
from miaotui.errors import RequestError
from miaotui.hub.store import PackedStore
from miaotui.kernels import compiled
from miaotui.kernels.attention_fields import PAGE_TOKENS
from miaotui.kernels.cpu import probe
from miaotui.kernels.formats import Format
from miaotui.kernels.team import KERNELS as TEAM_KERNELS
from miaotui.kernels.team import shared_team
from miaotui.model.config import ModelConfig
from miaotui.model.packed import PackedModel, load_packed
from miaotui.model.program import Program, rotation_tables
from miaotui.model.workspace import KvKind, KvPages, Workspace
from miaotui.schedule.config import ScheduleConfig
from miaotui.schedule.scheduler import Scheduler

Progress = Callable[[str, int, int | None], None]  # (what is being done, done, of)

MAX_CONTEXT = 32_768  # by default; ask for more explicitly
KV_SHARE = 0.25  # of the machine's memory, at most, for keys and values
LOGITS_BYTES = 32 << 20


@dataclass(frozen=True)
class EngineOptions:
    """How to run a model. None: chosen from the model and the machine.

    ``format`` is how weights stored as floats are packed; ``chunk_size`` how many prompt tokens a pass takes at most;
    ``kv_tokens`` how many tokens' keys and values fit in all. Raises `RequestError` for values out of range.
    """

    format: Format | None = None
    threads: int | None = None
    kv: KvKind = "f16"
    context: int | None = None
    kv_tokens: int | None = None
    max_sequences: int = 16
    chunk_size: int = 512
    reuse_prefix: bool = True

    def __post_init__(self) -> None:
        for name in ("threads", "context", "kv_tokens", "max_sequences", "chunk_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise RequestError(f"{name} must be at least 1, not {value}")
        if self.kv not in ("f16", "int8"):
            raise RequestError(f"kv must be 'f16' or 'int8', not {self.kv!r}")


@dataclass(frozen=True)
class Built:
    """An engine's parts."""

    runner: Runner
    scheduler: Scheduler
    weights: PackedModel
    context: int
    spare_pages: range  # pages outside the scheduler's reach, enough for one whole context


def build(
    path: Path,
    config: ModelConfig,
    options: EngineOptions,
    settings: Settings,
    progress: Progress | None,
) -> Built:
    """Pack (or map) the weights, compile (or load) the kernels, reserve memory."""
    weights = load_packed(
        path, PackedStore(settings.folder("packed"), settings.packed_max_bytes),
        options.format or Format.Q8, _told(progress, "packing"),
    )  # fmt: skip
    context = min(options.context or MAX_CONTEXT, config.context_length)
    n_pages = _pages(config, options, context)
    spare = -(-context // PAGE_TOKENS)
    rows = max(options.chunk_size, options.max_sequences)
    logits = max(options.max_sequences, min(64, LOGITS_BYTES // (4 * config.vocab_size)))
    workspace = Workspace(config, rows, logits)
    pages = KvPages(config, n_pages + spare, options.kv)
    program = Program(
        config,
        weights,
        workspace,
        pages,
        rotation_tables(config, context),
        _told(progress, "compiling"),
    )
    compiled.prepare((*TEAM_KERNELS, *DRAW_KERNELS), _told(progress, "compiling"))
    runner = Runner(program, shared_team(options.threads))
    schedule = ScheduleConfig(
        n_pages=n_pages, context=context, max_rows=rows, max_sequences=options.max_sequences,
        chunk_size=options.chunk_size, reuse_prefix=options.reuse_prefix,
    )  # fmt: skip
    return Built(runner, Scheduler(schedule), weights, context, range(n_pages, n_pages + spare))


def _pages(config: ModelConfig, options: EngineOptions, context: int) -> int:
    """Pages for ``kv_tokens``; by default four contexts or 16,384 tokens, within a quarter of memory."""
    tokens = options.kv_tokens
    if tokens is None:
        memory = probe().memory_bytes or 8 << 30
        most = int(memory * KV_SHARE) // KvPages.bytes_per_token(config, options.kv)
        tokens = max(context, min(4 * context, most, max(16_384, context)))
    return -(-tokens // PAGE_TOKENS)


def _told(progress: Progress | None, what: str) -> Callable[[str, int, int], None] | None:
    if progress is None:
        return None
    return lambda _name, done, total: progress(what, done, total)
