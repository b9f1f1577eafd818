"""A line about models whose weights are larger than the memory: they run from their mapped file.

Owns the comparison and no measurement. Knows no model. Invariant: nothing is said where weights fit, or where the
memory is not known.
"""

from __future__ import annotations

from miaotui.cli.output import messages
from miaotui.config import format_size
from miaotui.kernels.platform.cpu import probe


def memory_note(name: str, weight_bytes: int) -> str | None:
    """Return what to expect of a model whose weights are larger than the memory; None: they fit."""
    memory_bytes = probe().memory_bytes
    if memory_bytes is None or weight_bytes <= memory_bytes:
        return None
    sizes = {"weights": format_size(weight_bytes), "memory": format_size(memory_bytes)}
    return messages.LARGER_THAN_MEMORY(name=name, **sizes)
