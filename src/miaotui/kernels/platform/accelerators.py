"""Graphics and neural processors of this machine, as the system lists them on its bus.

Owns the reading of Linux's sysfs; other systems list none here. Knows neither drivers nor libraries: a device that is
listed may still lack what runs programs on it. Invariant: a device that is not on the bus is never named.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

GPU, ACCELERATOR = 0x03, 0x12  # base classes of PCI
VENDORS = {0x10DE: "NVIDIA", 0x1002: "AMD", 0x8086: "Intel", 0x1AE0: "Google"}
_NO_COMPUTE = {0x1AE0: {GPU}}  # vendors whose devices of a class run no programs


@dataclass(frozen=True)
class Accelerator:
    """One device. ``kind``: ``gpu`` or ``accelerator`` (a neural or tensor processor)."""

    vendor: str
    kind: str
    identifier: str  # vendor and device, as ``10de:2335``


def read_accelerators(root: Path = Path("/")) -> tuple[Accelerator, ...]:
    """Return the devices of vendors that a backend may know, in the order of the bus."""
    found = []
    for folder in sorted((root / "sys/bus/pci/devices").glob("*")):
        numbers = [_number(folder / name) for name in ("vendor", "device", "class")]
        vendor, device, kind = numbers
        if vendor is None or device is None or kind is None or vendor not in VENDORS:
            continue
        base = kind >> 16
        if base not in (GPU, ACCELERATOR) or base in _NO_COMPUTE.get(vendor, ()):
            continue
        name = "gpu" if base == GPU else "accelerator"
        found.append(Accelerator(VENDORS[vendor], name, f"{vendor:04x}:{device:04x}"))
    return tuple(found)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"), 16)
    except (OSError, ValueError):
        return None
