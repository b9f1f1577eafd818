"""Facts from the operating system: processor name, cores, caches, memory.

Owns the differences between Linux (procfs, sysfs), macOS (sysctl) and Windows (kernel32). Knows nothing of
instruction sets or cgroup quotas. A fact that cannot be found is None or a safe guess, never an exception: a probe
must not stop a program that would otherwise run.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import struct
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Caches:
    """Bytes of each data or unified cache that one core reaches; None where unknown."""

    l1d_bytes: int | None = None
    l2_bytes: int | None = None
    l3_bytes: int | None = None


@dataclass(frozen=True)
class Host:
    """Facts about a machine, as this process sees it."""

    model_name: str
    allowed_cpus: int  # logical processors this process may run on
    physical_cores: int  # distinct cores among them; fewer than `allowed_cpus` with SMT
    caches: Caches
    memory_bytes: int | None  # physical memory


def read_host() -> Host:
    """Return the facts about this machine."""
    if sys.platform == "darwin":
        return _macos()
    if sys.platform == "win32":
        return _windows()
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else _all_cpus()
    return read_linux(Path("/"), allowed)


def read_linux(root: Path, allowed: Iterable[int]) -> Host:
    """Return the facts from procfs and sysfs under `root` for the logical processors `allowed`."""
    cpus = sorted(allowed)
    base = root / "sys/devices/system/cpu"
    cores = {_siblings(base / f"cpu{cpu}", cpu) for cpu in cpus}
    memory = re.search(r"^MemTotal:\s*(\d+) kB", _text(root / "proc/meminfo"), re.MULTILINE)
    name = re.search(r"^model name\s*:\s*(\S.*)$", _text(root / "proc/cpuinfo"), re.MULTILINE)
    return Host(
        model_name=name[1].strip() if name else "",
        allowed_cpus=len(cpus),
        physical_cores=len(cores),
        caches=_linux_caches(base / f"cpu{cpus[0]}/cache"),
        memory_bytes=int(memory[1]) * 1024 if memory else None,
    )


def _siblings(folder: Path, cpu: int) -> str:
    """Return a text that is equal for logical processors of the same core."""
    for name in ("core_cpus_list", "thread_siblings_list"):  # the second is the older name
        text = _text(folder / "topology" / name).strip()
        if text:
            return text
    return str(cpu)


def _linux_caches(folder: Path) -> Caches:
    sizes: dict[int, int] = {}
    for index in sorted(folder.glob("index*")):
        level, kind, size = (_text(index / name).strip() for name in ("level", "type", "size"))
        match = re.fullmatch(r"(\d+)([KMG]?)", size)
        if level.isdecimal() and kind in {"Data", "Unified"} and match:
            sizes[int(level)] = int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[match[2]]
    return Caches(sizes.get(1), sizes.get(2), sizes.get(3))


def _macos() -> Host:
    keys = ("machdep.cpu.brand_string", "hw.physicalcpu", "hw.l1dcachesize", "hw.l2cachesize")
    facts = {key: sysctl(key) for key in (*keys, "hw.l3cachesize", "hw.memsize")}

    def number(key: str) -> int | None:
        return int(facts[key]) if facts[key].isdecimal() and int(facts[key]) else None

    logical = len(_all_cpus())
    caches = Caches(number("hw.l1dcachesize"), number("hw.l2cachesize"), number("hw.l3cachesize"))
    cores = number("hw.physicalcpu") or logical
    return Host(facts["machdep.cpu.brand_string"], logical, cores, caches, number("hw.memsize"))


def sysctl(key: str) -> str:
    """Return macOS's value of `key`, or an empty text where there is none."""
    command = ["/usr/sbin/sysctl", "-n", key]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _windows() -> Host:
    allowed, table, memory = -1, b"", None
    if sys.platform == "win32":  # for the type checker; only called there
        kernel = ctypes.WinDLL("kernel32")
        kernel.GetCurrentProcess.restype = ctypes.c_void_p
        process = ctypes.c_void_p(kernel.GetCurrentProcess())
        mask, system = ctypes.c_size_t(), ctypes.c_size_t()
        if kernel.GetProcessAffinityMask(process, ctypes.byref(mask), ctypes.byref(system)):
            allowed = mask.value or -1
        length = ctypes.c_uint32(0)
        kernel.GetLogicalProcessorInformation(None, ctypes.byref(length))
        buffer = ctypes.create_string_buffer(length.value)
        if kernel.GetLogicalProcessorInformation(buffer, ctypes.byref(length)):
            table = buffer.raw
        status = ctypes.create_string_buffer(struct.pack("<I60x", 64), 64)  # MEMORYSTATUSEX
        if kernel.GlobalMemoryStatusEx(status):
            memory = int(struct.unpack_from("<Q", status.raw, 8)[0])
    return read_windows_table(table, allowed, memory)


def read_windows_table(table: bytes, allowed: int, memory_bytes: int | None) -> Host:
    """Read 64-bit SYSTEM_LOGICAL_PROCESSOR_INFORMATION records for the affinity mask `allowed`."""
    sizes: dict[int, int] = {}
    cores = present = 0
    for mask, relation, union in struct.iter_unpack("<QI4x16s", table[: len(table) // 32 * 32]):
        if relation == 0:  # RelationProcessorCore
            present |= mask
            cores += bool(mask & allowed)
        elif relation == 2 and mask & allowed:  # RelationCache: level, ways, line, bytes, kind
            level, _, _, size, kind = struct.unpack_from("<BBHII", union)
            if kind in {0, 2}:  # unified or data
                sizes[level] = size
    logical = (present & allowed).bit_count() or len(_all_cpus())
    caches = Caches(sizes.get(1), sizes.get(2), sizes.get(3))
    return Host(platform.processor(), logical, cores or logical, caches, memory_bytes)


def _all_cpus() -> range:
    return range(os.cpu_count() or 1)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def busy_ticks(root: Path = Path("/")) -> tuple[int, int] | None:
    """Return the ticks that all processors were busy since the start, and all ticks; None where that is not told.

    Time that other guests of a virtual machine's host took counts as busy.
    """
    found = re.search(r"^cpu +((?:\d+ +){7}\d+)", _text(root / "proc/stat"), re.MULTILINE)
    if found is None:
        return None
    ticks = [int(value) for value in found[1].split()]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)  # idle, and waiting for disks
