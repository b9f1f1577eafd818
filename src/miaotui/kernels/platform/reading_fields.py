"""Fields of the memory-reading operation. Plain numbers; imports no compiler."""

from __future__ import annotations

SOURCE = 3  # address
BYTES = 4
BYTES_PER_UNIT = 1 << 18
