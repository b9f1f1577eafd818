"""Limits that control groups set for this process: processor quota and memory.

Owns the search through cgroup v1 and v2, including hybrid set-ups and nested groups. Knows nothing of processors.
Every group from the process's own up to the mount point counts, and the tightest limit wins. A missing or unreadable
file sets no limit. Follows the kernel's ``cgroup-v1/`` documents, ``cgroup-v2.rst`` and proc(5) (mountinfo).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

# cgroup v1 says "no limit" with the largest multiple of the page size; nothing real comes near it.
_V1_UNLIMITED_BYTES = 1 << 60


@dataclass(frozen=True)
class CgroupLimits:
    """Limits of this process's control groups. None: no limit."""

    cpu_quota: float | None  # processors' worth of time, e.g. 1.5
    memory_bytes: int | None


@dataclass(frozen=True)
class _Mount:
    """A mounted hierarchy: the subtree `root` is visible at the folder `point`."""

    version: int
    controllers: frozenset[str]  # v1 only
    root: PurePosixPath
    point: PurePosixPath


def read_limits(root: Path = Path("/")) -> CgroupLimits:
    """Return the tightest limits on this process; `root` stands in for ``/`` in tests."""
    mounts = list(_mounts(root))
    quotas: list[float] = []
    memory: list[int] = []
    for version, controllers, path in _memberships(root):
        for mount in mounts:
            if mount.version != version or (version == 1 and not controllers & mount.controllers):
                continue
            for folder in _groups(root, mount, path):
                quotas += _quota(folder)
                memory += _memory(folder)
    return CgroupLimits(min(quotas, default=None), min(memory, default=None))


def _memberships(root: Path) -> Iterator[tuple[int, frozenset[str], PurePosixPath]]:
    """Yield (version, v1 controllers, path) from ``/proc/self/cgroup``."""
    for line in _lines(root / "proc/self/cgroup"):
        fields = line.split(":", 2)
        if len(fields) != 3:
            continue
        _, controllers, path = fields
        version = 1 if controllers else 2
        yield version, frozenset(controllers.split(",")), PurePosixPath(path)


def _mounts(root: Path) -> Iterator[_Mount]:
    """Yield the cgroup hierarchies from ``/proc/self/mountinfo``."""
    for line in _lines(root / "proc/self/mountinfo"):
        before, separator, after = line.partition(" - ")
        fields, source = before.split(), after.split()
        if not separator or len(fields) < 5 or len(source) < 3:
            continue
        if source[0] in {"cgroup", "cgroup2"}:
            yield _Mount(
                version=2 if source[0] == "cgroup2" else 1,
                controllers=frozenset(source[2].split(",")),
                root=PurePosixPath(_unescape(fields[3])),
                point=PurePosixPath(_unescape(fields[4])),
            )


def _groups(root: Path, mount: _Mount, path: PurePosixPath) -> Iterator[Path]:
    """Yield the folders of the group `path` and of all its ancestors that this mount shows."""
    # A group that lies outside what the mount shows (a namespace): only its top can be read.
    shown = mount.root in (path, *path.parents) and ".." not in path.parts
    parts = path.relative_to(mount.root).parts if shown else ()
    top = root / mount.point.relative_to("/")
    for depth in range(len(parts), -1, -1):
        yield top.joinpath(*parts[:depth])


def _quota(folder: Path) -> list[float]:
    both = _lines(folder / "cpu.max")  # v2: "max 100000" or "150000 100000"
    if both:
        quota, _, period = both[0].partition(" ")
    else:
        quota = "".join(_lines(folder / "cpu.cfs_quota_us"))
        period = "".join(_lines(folder / "cpu.cfs_period_us"))
    if quota.isdecimal() and period.isdecimal() and int(quota) and int(period):
        return [int(quota) / int(period)]
    return []  # "max", "-1", or nothing there


def _memory(folder: Path) -> list[int]:
    for name in ("memory.max", "memory.limit_in_bytes"):
        text = "".join(_lines(folder / name))
        if text.isdecimal() and 0 < int(text) < _V1_UNLIMITED_BYTES:
            return [int(text)]
    return []


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []


def _unescape(field: str) -> str:
    r"""Undo mountinfo's octal escapes (``\040`` is a space)."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
