"""MinHash signatures of questions, cut into bands, to find similar ones.

Owns signatures and band keys; `retrieval.answers.similarity` says what a question consists of. Knows no storage.
Invariant: signatures are equal in every process, on every machine. Source: Broder (1997); banding after Leskovec,
Rajaraman and Ullman, "Mining of Massive Datasets", chapter 3.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

BANDS, ROWS = 16, 4  # of pairs with likeness 0.8 all but one in 5,000 share a band


def band_keys(scope: bytes, shingles: Iterable[str]) -> list[int]:
    """Return one key for each band, 63 bits. Similar sets most likely share at least one."""
    signature = minhash(shingles).reshape(BANDS, ROWS)
    return [_hash(scope + bytes([band]) + row.astype("<u8").tobytes()) >> 1 for band, row in enumerate(signature)]


def minhash(shingles: Iterable[str]) -> NDArray[np.uint64]:
    """Return the signature of a set that is not empty, ``[BANDS * ROWS]``."""
    hashes = np.array([_hash(shingle.encode("utf-8", "surrogatepass")) for shingle in shingles])
    factors, addends = _permutations()
    with np.errstate(over="ignore"):
        values = hashes[:, None].astype(np.uint64) * factors + addends
    smallest: NDArray[np.uint64] = values.min(axis=0)
    return smallest


@lru_cache(maxsize=1)
def _permutations() -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    count = BANDS * ROWS
    numbers = np.array([_hash(b"permutation %d" % n) for n in range(2 * count)], np.uint64)
    return numbers[:count] | np.uint64(1), numbers[count:]


def _hash(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
