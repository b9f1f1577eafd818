"""Texts for calibration and for testing, and the second moments of what each product reads.

Owns the checks of texts: enough of them, text and not bytes, and no line in both sets, by digest. Knows no rounding.
Invariant: memory is bounded before it is taken; moments are sums over all tokens, so their order does not matter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miaotui.errors import RequestError
from miaotui.hub.files import regular_size
from miaotui.optimize.layerwise import Array, Tokens

MAX_TEXT_BYTES = 64 << 20
MIN_TOKENS = 1024  # of a set
READ_TIMES = 16  # as many tokens as are wanted are looked at
LINE_CHARACTERS = 24  # shorter lines may be in both sets


@dataclass(frozen=True)
class TextSet:
    """Texts for one purpose; ``name`` says where they are from."""

    name: str
    texts: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the texts, in hex."""
        return hashlib.sha256("\0".join(self.texts).encode()).hexdigest()

    def lines(self) -> frozenset[str]:
        """Return the SHA-256 of every long line, without spaces around it and in lower case."""
        lines = (line.strip().casefold() for text in self.texts for line in text.splitlines())
        return frozenset(hashlib.sha256(x.encode()).hexdigest() for x in lines if len(x) >= LINE_CHARACTERS)


def read_texts(path: Path) -> TextSet:
    """Read texts that are apart by an empty line. Raises `RequestError` for a file that is no text, or too large."""
    try:
        if regular_size(path) > MAX_TEXT_BYTES:
            raise RequestError(f"{path} is larger than {MAX_TEXT_BYTES >> 20} MiB: give a part of it")
        content = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(f"{path} is not a text in UTF-8 (byte {error.start}): give plain text") from error
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error}. Check the path") from error
    if "\0" in content:
        raise RequestError(f"{path} holds bytes that no text has: give plain text in UTF-8")
    texts = tuple(part.strip() for part in content.replace("\r\n", "\n").split("\n\n") if part.strip())
    return TextSet(str(path), texts)


def require_disjoint(calibration: TextSet, test: TextSet) -> None:
    """Raise `RequestError` if a long line is in both sets: a loss measured on calibration texts looks smaller."""
    shared = calibration.lines() & test.lines()
    if shared:
        raise RequestError(
            f"{len(shared)} lines are in both the calibration texts ({calibration.name}) and the test texts "
            f"({test.name}): give texts that share none"
        )


def token_rows(tokenizer: Any, texts: TextSet, length: int, limit: int) -> list[list[int]]:
    """Return tokens of the texts, joined and cut into rows of ``length``, at most ``limit`` in all.

    Of more, rows are taken evenly from the first `READ_TIMES` as many, so that all parts of a file count. Raises
    `RequestError` for fewer than `MIN_TOKENS`.
    """
    rows: list[list[int]] = []
    rest: list[int] = []
    for text in texts.texts:
        rest += tokenizer.encode(text)
        while len(rest) >= length:
            rows.append(rest[:length])
            rest = rest[length:]
        if len(rows) * length >= READ_TIMES * limit:
            break
    if len(rest) > 1 and len(rows) * length < limit:
        rows.append(rest)
    most = max(1, limit // length)
    if len(rows) > most:
        rows = [rows[i] for i in np.linspace(0, len(rows) - 1, most).astype(int)]
    count = sum(map(len, rows))
    if count < MIN_TOKENS:
        raise RequestError(
            f"the texts of {texts.name} have {count} tokens, and at least {MIN_TOKENS} are needed: give more text"
        )
    return rows


class Moments:
    """Second moments ``X^T X / n`` of the inputs of one layer's products; called as an oracle's ``on_product``.

    Products that read one array share a moment. Names in ``wanted`` only.
    """

    def __init__(self, wanted: Sequence[str]) -> None:
        self._wanted = frozenset(wanted)
        self._sums: dict[str, NDArray[np.float32]] = {}
        self._counts: dict[str, int] = {}
        self._alias: dict[str, str] = {}
        self._last: tuple[Array, str] | None = None

    def __call__(self, name: str, inputs: Array) -> None:
        """Add the inputs ``[n, cols]`` of a product."""
        if name not in self._wanted:
            return
        if self._last is not None and self._last[0] is inputs:
            self._alias.setdefault(name, self._last[1])
        owner = self._alias.setdefault(name, name)
        if owner != name:
            return
        self._last = inputs, name
        if name not in self._sums:
            self._sums[name] = np.zeros((inputs.shape[1],) * 2, np.float32)
            self._counts[name] = 0
        self._sums[name] += inputs.T @ inputs
        self._counts[name] += len(inputs)

    def owner(self, name: str) -> str | None:
        """Return the product whose inputs ``name`` shares, perhaps itself; None if it was never computed."""
        return self._alias.get(name)

    def tokens(self, name: str) -> int | None:
        """Return the number of rows that a product's moment was computed from; None if it was never computed."""
        owner = self._alias.get(name)
        return None if owner is None else self._counts[owner]

    def of(self, name: str) -> Array | None:
        """Return the moment of a product's inputs, ``[cols, cols]``; None if it was never computed."""
        owner = self._alias.get(name)
        return None if owner is None else self._sums[owner] / np.float32(self._counts[owner])


def moment_bytes(cols: Sequence[int]) -> int:
    """Return the memory that the moments of products with so many inputs take, float32."""
    return sum(4 * n * n for n in cols)


def tokens_in(texts: Tokens) -> int:
    """Return the number of tokens."""
    return sum(map(len, texts))
