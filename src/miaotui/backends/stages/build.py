"""Building the first process of a model whose layers are shared out, and its stages.

Owns the order: connect to all stages, choose layers and sizes, pack and compile here, let stages do the same, wait for
them. Knows nothing of prompts. Invariant: either everything is made, or every connection is closed again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from miaotui.backends.cpu.program import PassPart, Program
from miaotui.backends.cpu.shape_limits import require_runnable
from miaotui.backends.cpu.workspace import KvPages, Workspace, rotation_tables
from miaotui.backends.options import Built, EngineOptions
from miaotui.backends.sizes import EngineSizes, engine_sizes
from miaotui.backends.stages.backend import StagedBackend, StagedRunner
from miaotui.backends.stages.compute import StageSizes, require_one_stream
from miaotui.backends.stages.layers import cut_layers
from miaotui.backends.stages.link import ChildPlace, PortPlace, StageLink, StagePlace, close_all
from miaotui.config import Settings
from miaotui.errors import RequestError
from miaotui.hub.digest import model_digest
from miaotui.hub.store import PackedStore
from miaotui.kernels.linear.formats import Format
from miaotui.kernels.platform.cpu import probe
from miaotui.kernels.runtime.thread_pool import shared_pool
from miaotui.model.config import ModelConfig
from miaotui.model.packed import PackedModel, PackedPart, load_packed, packed_sizes
from miaotui.model.reading.files import open_model
from miaotui.schedule.scheduler import Scheduler
from miaotui.types import Progress, progress_as


def places_of(options: EngineOptions) -> list[StagePlace]:
    """Return the places of all stages but the first. Raises `RequestError`."""
    if options.stage_at:
        if options.stages not in (1, 1 + len(options.stage_at)):
            raise RequestError(
                f"stages is {options.stages}, and stage_at names {len(options.stage_at)} beside this one"
            )
        return [PortPlace.read(each, options.stage_key_file) for each in options.stage_at]
    return [ChildPlace(number) for number in range(2, options.stages + 1)]


def build_staged(
    path: Path, config: ModelConfig, options: EngineOptions, settings: Settings, progress: Progress | None
) -> Built:
    """Build for the model at ``path``. Raises `UnsupportedModelError` for one that cannot be cut, `RequestError` for
    options that do not fit it, `StageLostError` for a stage that cannot be reached, and what a stage raises.
    """
    require_runnable(config)
    require_one_stream(config)
    wanted = options.format or Format.Q8
    with open_model(path) as files:
        outer, each = packed_sizes(files, wanted)
    links = [StageLink(place) for place in places_of(options)]
    layers = cut_layers(outer, each, 1 + len(links))
    store = PackedStore(settings.folder("packed"), settings.packed_max_bytes)
    weights: PackedModel | None = None
    try:
        sizes = _sizes(config, options, layers, [link.open() for link in links])
        weights = load_packed(path, store, wanted, progress, PackedPart(layers[0], has_ends=True))
        front, rear = _programs(config, weights, sizes, options, layers[0], progress)
        beginning = _Beginning(path, config, options, sizes, dict(zip(map(id, links), layers[1:], strict=True)))
        for link in links:
            beginning.say(link)
        numbers = [link.ready() for link in links]
        runner = StagedRunner(front, rear, shared_pool(options.threads), links)
        backend = StagedBackend(runner, sizes.limits, links, numbers, beginning.again)
        return Built(backend, Scheduler(sizes.schedule))
    except BaseException:
        close_all(links)
        if weights is not None:
            weights.close()
        raise


class _Beginning:
    """Tells stages which layers to compute, also again."""

    def __init__(
        self, path: Path, config: ModelConfig, options: EngineOptions, sizes: EngineSizes, layers: Mapping[int, range]
    ) -> None:
        limits = sizes.limits
        pages, wanted = limits.spare_pages.stop, options.format or Format.Q8
        shared = StageSizes(limits.rows, limits.logits_rows, pages, limits.context, options.kv, wanted)
        self._layers, self._most_bytes = layers, 4 * config.hidden_size * limits.rows
        self._values: dict[str, Any] = {"sizes": shared.plain(), "threads": options.threads}
        if options.stage_at:
            self._values["digest"] = model_digest(path)
        else:
            self._values["path"] = str(path.absolute())

    def say(self, link: StageLink) -> None:
        """Say it. Raises `StageLostError`."""
        own = self._layers[id(link)]
        link.begin({**self._values, "layers": [own.start, own.stop]}, self._most_bytes)

    def again(self, link: StageLink) -> None:
        """Connect to a stage that was lost, or start it, and wait until it can compute. Raises a `MiaotuiError`."""
        link.open()
        self.say(link)
        link.ready()


def _sizes(
    config: ModelConfig, options: EngineOptions, layers: Sequence[range], hellos: Sequence[dict[str, Any]]
) -> EngineSizes:
    """Return the sizes that every process has room for.

    Stages on one machine share its memory. Of several machines the one with the least counts, with the largest part.
    """
    memory = [probe().memory_bytes or 8 << 30]
    parts = [KvPages.bytes_per_token(config, options.kv, each) for each in layers]
    if options.stage_at:
        memory += [each["memory_bytes"] for each in hellos if isinstance(each.get("memory_bytes"), int)]
    bytes_per_token = max(parts) if options.stage_at else sum(parts)
    return engine_sizes(config, options, bytes_per_token, min(memory), layers[0])


def _programs(
    config: ModelConfig,
    weights: PackedModel,
    sizes: EngineSizes,
    options: EngineOptions,
    layers: range,
    progress: Progress | None,
) -> tuple[Program, Program]:
    """Return what this process computes before the stages, and after them."""
    limits = sizes.limits
    try:
        workspace = Workspace(config, limits.rows, limits.logits_rows)
        pages = KvPages(config, limits.spare_pages.stop, options.kv, layers)
    except (MemoryError, OSError, ValueError) as error:  # mmap says OSError, NumPy either of the others
        raise sizes.memory_error() from error
    shared = config, weights, workspace, pages, rotation_tables(config, limits.context)
    compiling, after = progress_as(progress, "compiling"), range(config.n_layers, config.n_layers)
    front = Program(*shared, progress=compiling, part=PassPart(layers, has_embedding=True))
    return front, Program(*shared, progress=compiling, part=PassPart(after, has_head=True))
