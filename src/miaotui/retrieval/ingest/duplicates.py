"""Texts that were there before, exactly or nearly.

Owns fingerprints (a digest of the words; MinHash values of runs of three words) and the memory of those
seen. Near duplicates share a band of values and are confirmed by the share of equal values. Knows nothing
of documents. Invariant: memory is bounded; the oldest are forgotten.
"""

from __future__ import annotations

import re
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from hashlib import blake2b

from miaotui.retrieval.minhash import BANDS, ROWS, VALUES, signature

_SHINGLE = 3
_FEWEST_WORDS = 12  # shorter texts are alike by chance
NEAR = 0.9
_WORD = re.compile(r"[\u3400-\u9fff]|(?:(?![\u3400-\u9fff])\w)+")
REMEMBERED = 500_000


@dataclass(frozen=True)
class Fingerprint:
    """A text's digest and its MinHash values; none when it is too short to compare."""

    digest: bytes
    values: tuple[int, ...] = ()


def fingerprint(text: str) -> Fingerprint:
    """Return the fingerprint of a text; case, spacing and punctuation do not matter."""
    words = _WORD.findall(text.lower())
    digest = blake2b(" ".join(words).encode("utf-8", "replace"), digest_size=12).digest()
    if len(words) < _FEWEST_WORDS:
        return Fingerprint(digest)
    shingles = {" ".join(words[i : i + _SHINGLE]) for i in range(len(words) - _SHINGLE + 1)}
    values = signature(zlib.crc32(shingle.encode("utf-8", "replace")) for shingle in shingles)
    return Fingerprint(digest, tuple(values.tolist()))


class Seen:
    """The texts of one load; ask before adding."""

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._remembered = remembered
        self._exact: OrderedDict[bytes, str] = OrderedDict()
        self._bands: OrderedDict[tuple[int, ...], tuple[str, tuple[int, ...]]] = OrderedDict()

    def before(self, mark: Fingerprint) -> str | None:
        """Return the name of a text that this one repeats, exactly or nearly; None if it is new."""
        known = self._exact.get(mark.digest)
        if known is not None:
            return known
        for band in _bands_of(mark):
            near = self._bands.get(band)
            if near is not None and _share(near[1], mark.values) >= NEAR:
                return near[0]
        return None

    def add(self, mark: Fingerprint, name: str) -> None:
        """Remember a text under a name."""
        self._exact[mark.digest] = name
        for band in _bands_of(mark):
            self._bands[band] = (name, mark.values)
        while len(self._exact) > self._remembered:
            self._exact.popitem(last=False)
        while len(self._bands) > self._remembered * BANDS:
            self._bands.popitem(last=False)


def _bands_of(mark: Fingerprint) -> list[tuple[int, ...]]:
    return [(place, *mark.values[place : place + ROWS]) for place in range(0, len(mark.values), ROWS)]


def _share(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    return sum(map(int.__eq__, one, other)) / VALUES
