"""MinHash signatures, by which sets that share most of their members are found.

Owns signatures and the keys of their bands; knows neither texts nor storage. Invariant: a signature is the same in
every process, on every machine. Source: Broder (1997); bands after Leskovec, Rajaraman and Ullman, "Mining of
Massive Datasets", chapter 3.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

BANDS, ROWS = 16, 4  # of pairs with likeness 0.8 all but one in 5,000 share a band
VALUES = BANDS * ROWS


def band_keys(scope: bytes, shingles: Iterable[str]) -> list[int]:
    """Return one key of 63 bits for each band; sets that are alike share at least one, most likely."""
    values = minhash(shingles).reshape(BANDS, ROWS)
    return [_hash(scope + bytes([band]) + row.astype("<u8").tobytes()) >> 1 for band, row in enumerate(values)]


def minhash(shingles: Iterable[str]) -> NDArray[np.uint64]:
    """Return the signature ``[VALUES]`` of a set of texts that is not empty."""
    return signature([_hash(shingle.encode("utf-8", "surrogatepass")) for shingle in shingles])


def signature(hashes: Iterable[int]) -> NDArray[np.uint64]:
    """Return the signature ``[VALUES]`` of a set that is not empty, given a hash of each member (up to 64 bits)."""
    factors, addends = _permutations()
    with np.errstate(over="ignore"):
        values = np.fromiter(hashes, np.uint64)[:, None] * factors + addends
    smallest: NDArray[np.uint64] = values.min(axis=0)
    return smallest


@lru_cache(maxsize=1)
def _permutations() -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    numbers = np.array([_hash(b"permutation %d" % n) for n in range(2 * VALUES)], np.uint64)
    return numbers[:VALUES] | np.uint64(1), numbers[VALUES:]


def _hash(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
