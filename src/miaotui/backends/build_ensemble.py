"""Building an ensemble: one backend for each member, of equal sizes, and a scheduler for all.

Owns the sizes that all members share: keys and values of all of them fit the share of memory that one model's may
take. Knows no files but by `build_backend`. Invariant: either all members are open, or none is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from miaotui.backends.backend import Backend
from miaotui.backends.build import build_backend
from miaotui.backends.ensemble import EnsembleBackend
from miaotui.backends.options import Built, EngineOptions
from miaotui.backends.sizes import engine_sizes
from miaotui.config import Settings
from miaotui.hub.store import content_key
from miaotui.kernels.platform.cpu import probe
from miaotui.model.config import ModelConfig
from miaotui.schedule.plan import PAGE_SIZE
from miaotui.schedule.scheduler import Scheduler
from miaotui.types import Progress


class MemberFiles(NamedTuple):
    """A member's place, configuration and weight in the average."""

    path: Path
    config: ModelConfig
    weight: float


def build_ensemble(
    members: Sequence[MemberFiles], options: EngineOptions, settings: Settings, progress: Progress | None = None
) -> Built:
    """Build all members; the first one's vocabulary is the ensemble's. Raises a `MiaotuiError`."""
    shortest = min(each.config.context_length for each in members)
    kv_bytes = sum(_kv_token_bytes(each.config, options.kv) for each in members)
    wanted = replace(options, context=min(options.context, shortest) if options.context else None)
    smallest = min((each.config for each in members), key=lambda config: config.context_length)
    sizes = engine_sizes(smallest, wanted, kv_bytes, probe().memory_bytes)
    own = replace(wanted, context=sizes.limits.context, kv_tokens=sizes.limits.pages * PAGE_SIZE)
    with contextlib.ExitStack() as stack:
        built: list[Backend] = []
        for each in members:
            backend = build_backend(each.path, each.config, own, settings, progress).backend
            stack.callback(backend.close)
            built.append(backend)
        keys = [content_key(each.path, {}) for each in members]
        ensemble = EnsembleBackend(built, [each.weight for each in members], keys)
        stack.pop_all()
    schedule = replace(sizes.schedule, scored_rows=ensemble.limits.draft_rows)
    return Built(ensemble, Scheduler(schedule))


def _kv_token_bytes(config: ModelConfig, kv: str) -> int:
    return 2 * (2 if kv == "f16" else 1) * config.n_kv_heads * config.head_dim * config.n_layers
