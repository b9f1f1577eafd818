"""The fields of the memory-reading operation: plain numbers, free of any compiler import."""

from __future__ import annotations

SOURCE = 3  # address
BYTES = 4
BYTES_PER_UNIT = 1 << 18
