"""The measured speeds of this machine, kept for commands that have no time to measure.

Owns the file: ``speeds.json`` in the cache, written by ``miaotui doctor``. Knows no models. Invariant: speeds of
another processor, instruction set or number of threads are never used.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from miaotui.config import Settings
from miaotui.errors import CacheError, MiaotuiError
from miaotui.hub.files import write_whole
from miaotui.hub.formats.untrusted_json import read_object
from miaotui.kernels.platform.cpu import Cpu


@dataclass(frozen=True)
class Speeds:
    """Measured rates with one number of threads."""

    threads: int
    read_gb_per_s: float  # 10**9 bytes
    int8_gmac_per_s: float  # 10**9 multiply-adds


def keep_speeds(speeds: Speeds, cpu: Cpu, settings: Settings) -> None:
    """Keep what was measured; a cache that cannot be written keeps nothing."""
    text = json.dumps({"machine": _machine(cpu), **asdict(speeds)}).encode()
    try:
        settings.folder("")
        write_whole(_path(settings), "the measured speeds", lambda file: file.write(text))
    except CacheError:
        return


def known_speeds(cpu: Cpu, settings: Settings) -> Speeds | None:
    """Return the speeds that were measured on this machine with all of its threads; None if there are none."""
    try:
        found = read_object(_path(settings))
        values = {name: float(found[name]) for name in ("read_gb_per_s", "int8_gmac_per_s")}
    except (MiaotuiError, KeyError, TypeError, ValueError):
        return None
    if found.get("machine") != _machine(cpu) or found.get("threads") != cpu.team_size or min(values.values()) <= 0:
        return None
    return Speeds(cpu.team_size, **values)


def _machine(cpu: Cpu) -> str:
    return f"{cpu.model_name}, {cpu.isa.value}"


def _path(settings: Settings) -> Path:
    return settings.cache_dir / "speeds.json"
