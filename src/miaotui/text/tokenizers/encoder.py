"""The seam between a `Tokenizer` and the way one file's tokenizer cuts text.

Owns the protocol and the places of control tokens. Knows no file format. Invariant: `encode_at` makes
control tokens at the given places only, and with all places of a text it gives the ids of `encode` with
``special=True``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol


class ControlSpan(NamedTuple):
    """Characters ``start`` to ``end`` of a text that are the control token ``token``."""

    start: int
    end: int
    token: int


class TextEncoder(Protocol):
    """Encoder of text into token ids. Safe to use from several threads."""

    @property
    def control_texts(self) -> Mapping[str, int]:
        """Ids of the control tokens that can be written in a text, by their texts."""

    @property
    def added_texts(self) -> Mapping[str, int]:
        """Ids of the other tokens that are recognised in any text before it is cut, by their texts."""

    def encode(self, text: str, special: bool) -> list[int]:
        """Return the ids of ``text``, with the control tokens written in it recognised or not."""

    def encode_at(self, text: str, spans: Sequence[ControlSpan]) -> list[int]:
        """Return the ids of ``text`` with control tokens at ``spans`` only."""
