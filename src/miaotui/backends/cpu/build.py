"""Building the CPU backend and the scheduler for it: files to packed weights, program, pages.

Owns the order in which they are made. Knows nothing of prompts. Invariant: either everything is made, or the weights
are closed again.
"""

from __future__ import annotations

from pathlib import Path

from miaotui.backends.cpu.backend import CpuBackend, Runner
from miaotui.backends.cpu.pass_tables import MOST_TOKENS
from miaotui.backends.cpu.program import Program
from miaotui.backends.cpu.shape_limits import require_runnable
from miaotui.backends.cpu.workspace import KvPages, Workspace, rotation_tables
from miaotui.backends.options import Built, EngineOptions
from miaotui.backends.sizes import engine_sizes
from miaotui.config import Settings
from miaotui.hub.store import PackedStore, content_key
from miaotui.kernels.linear.formats import Format
from miaotui.kernels.platform.cpu import probe
from miaotui.kernels.runtime.thread_pool import shared_pool
from miaotui.model.config import ModelConfig
from miaotui.model.packed import LAYOUT, PackedModel, load_packed, pack_model, packing_progress
from miaotui.model.reading.files import ModelFiles
from miaotui.schedule.scheduler import Scheduler
from miaotui.types import Progress, progress_as


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
    weights = load_packed(path, store, wanted, progress)
    try:
        return assemble(config, weights, options, progress)
    except BaseException:
        weights.close()
        raise


def build_from_files(
    path: Path, files: ModelFiles, options: EngineOptions, settings: Settings, progress: Progress | None
) -> Built:
    """Build for files that are opened already, as those of a decoder that is used as an encoder; see `build`."""
    require_runnable(files.config)
    store = PackedStore(settings.folder("packed"), settings.packed_max_bytes)
    wanted = options.format or Format.Q8
    extra = {"format": wanted.value, "use": "states"}
    key = content_key(path, {"layout": LAYOUT, **extra})
    file = store.open(key)
    if file is None:
        weights = pack_model(files, store, key, wanted, packing_progress(progress, path, store, extra))
    else:
        weights = PackedModel(file)
    try:
        return assemble(files.config, weights, options, progress)
    except BaseException:
        weights.close()
        raise


def assemble(
    config: ModelConfig, weights: PackedModel, options: EngineOptions, progress: Progress | None = None
) -> Built:
    """Build from packed weights: the rest of `build`."""
    kv_token_bytes = KvPages.bytes_per_token(config, options.kv)
    sizes = engine_sizes(config, options, kv_token_bytes, probe().memory_bytes, run_tokens=MOST_TOKENS)
    limits = sizes.limits
    try:
        workspace = Workspace(config, limits.rows, limits.logits_rows)
        pages = KvPages(config, limits.spare_pages.stop, options.kv)
    except (MemoryError, OSError, ValueError) as error:  # mmap says OSError, NumPy either of the others
        raise sizes.memory_error() from error
    tables = rotation_tables(config, limits.context)
    program = Program(config, weights, workspace, pages, tables, progress=progress_as(progress, "compiling"))
    runner = Runner(program, shared_pool(options.threads))
    return Built(CpuBackend(runner, limits), Scheduler(sizes.schedule))
