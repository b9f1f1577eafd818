"""Bounds the growth of a text by a tokenizer's normalizer, so that a hostile one is refused.

Owns one estimate over the normalizer as ``tokenizer.json`` writes it. Knows no other part of that
file. Invariant: a normalizer that passes makes a text at most `MAX_GROWTH` times longer (beside what
it puts in front), so the memory that encoding takes stays in proportion to the text.
Source: the normalizers of the `tokenizers` library.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from miaotui.errors import ModelFormatError

MAX_GROWTH = 64  # known models reach 3: a space becomes the three bytes of SentencePiece's mark
MAX_PREPENDED = 1 << 10  # characters


def require_bounded_growth(normalizer: Mapping[str, Any], file: Path | str) -> None:
    """Raise `ModelFormatError` if ``normalizer``, from ``file``, could make texts vastly longer."""
    growth, prepended = _growth(normalizer)
    if growth > MAX_GROWTH or prepended > MAX_PREPENDED:
        raise ModelFormatError(
            f"{file} replaces characters by texts that are too long, which would make any prompt "
            "fill the memory: the file is damaged or hostile; get it again from a source you trust"
        )


def _growth(step: Mapping[str, Any]) -> tuple[float, int]:
    """Return (times longer, characters put in front) that one step, with all its parts, can make a text."""
    kind = step.get("type")
    if kind == "Sequence":
        parts = [_growth(part) for part in step.get("normalizers", ())]
        longest = prod(growth for growth, _ in parts)
        return longest, int(min(longest, 1 << 40)) * sum(before for _, before in parts)
    if kind == "Replace":
        found = step.get("pattern", {}).get("String")
        # A regular expression may match single characters, and the nothing between them.
        return max(1.0, len(step["content"]) / len(found) if found else 1 + len(step["content"])), 0
    if kind == "Precompiled":
        return _longest_replacement(step.get("precompiled_charsmap")), 0
    if kind == "Prepend":
        return 1.0, len(step["prepend"])
    return 1.0, 0


def _longest_replacement(charsmap: object) -> float:
    """Return the characters of the longest replacement in SentencePiece's table.

    The table is a length, that many bytes of a trie, and texts that end in a zero byte each. Source: SentencePiece,
    ``Normalizer::DecodePrecompiledCharsMap``.
    """
    raw = b64decode(charsmap) if isinstance(charsmap, str) else bytes(charsmap or ())  # type: ignore[call-overload]
    texts = raw[4 + int.from_bytes(raw[:4], "little") :]
    return float(max((len(text.decode("utf-8", "replace")) for text in texts.split(b"\0")), default=0)) or 1.0
