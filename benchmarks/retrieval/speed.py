"""Speed, growth and size of document search on generated passages.

    python -m benchmarks.retrieval.speed                        # a million passages; 10 minutes
    python -m benchmarks.retrieval.speed --passages 100000
    python -m benchmarks.retrieval.speed --folder INDEX         # keep the index, or use it again

Passages have 40 to 120 words by Zipf's law from a vocabulary of 300,000; the commonest words are
English stop words. Queries are 1 to 5 words of a random passage that are not among the commonest
30; each is asked once, on one core, with its ten best passages read from the index. Prints a table,
and one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from miaotui.retrieval import Document, Index

VOCABULARY = 300_000
STOP_WORDS = (
    *("the", "of", "and", "to", "a", "in", "is", "that", "for", "it", "as", "was", "with", "be"),
    *("by", "on", "not", "this", "are", "at", "an", "or", "if", "no", "such", "they", "will"),
    *("then", "there", "their"),
)
CHUNK = 1_000
FRESH = 1_000  # passages added to the whole


def vocabulary() -> list[str]:
    """Words by rank: stop words, then three syllables each; five letters a running word, as in
    English.
    """
    syllables = [onset + vowel for vowel in "aeiou" for onset in "bcdfghjklmnprstvwz"]
    ends = ("", "n", "", "r", "s")
    words = dict.fromkeys(STOP_WORDS)
    for number in range(VOCABULARY):
        first, rest = divmod(number, len(syllables))
        second, third = divmod(first, len(syllables))
        parts = (syllables[rest], syllables[second], syllables[third % len(syllables)])
        words.setdefault("".join(parts) + ends[number % len(ends)])
    return list(words)[:VOCABULARY]


class Passages:
    """Passages by number; the same ones in every run."""

    def __init__(self) -> None:
        self.words = np.array(vocabulary(), object)
        shares = 1 / np.arange(1, VOCABULARY + 1) ** 1.05
        self._cumulated = np.cumsum(shares / shares.sum())

    def ranks(self, chunk: int) -> tuple[np.ndarray, np.ndarray]:
        """(lengths, ranks of all words) of a chunk of passages."""
        chance = np.random.default_rng([7, chunk])
        lengths = chance.integers(40, 121, CHUNK)
        ranks = np.searchsorted(self._cumulated, chance.random(int(lengths.sum()) + 4 * CHUNK))
        return lengths, np.minimum(ranks, VOCABULARY - 1)

    def documents(self, first: int, count: int) -> Iterator[Document]:
        """Passages ``first`` and on; both in whole chunks."""
        for chunk in range(first // CHUNK, (first + count) // CHUNK):
            lengths, ranks = self.ranks(chunk)
            words, place = self.words[ranks], 4 * CHUNK
            for number, length in enumerate(lengths):
                title = " ".join(words[4 * number : 4 * number + 4])
                body = " ".join(words[place : place + length])
                place += int(length)
                yield Document(f"p{chunk * CHUNK + number}", body, title)

    def queries(self, count: int, passages: int) -> list[str]:
        """Queries, each of words of one passage."""
        chance, made = np.random.default_rng(11), list[str]()
        while len(made) < count:
            if len(made) % 50 == 0:
                _, ranks = self.ranks(int(chance.integers(0, passages // CHUNK)))
            start = int(chance.integers(4 * CHUNK, len(ranks) - 100))
            near = [rank for rank in ranks[start : start + 60] if rank >= len(STOP_WORDS)]
            chosen = chance.choice(near, int(chance.integers(1, 6)), replace=False)
            made.append(" ".join(self.words[chosen]))
        return made


def built(folder: Path, passages: Passages, count: int) -> tuple[Index, float | None, int]:
    """(index, seconds to build it or None if it was there, bytes of its text)."""
    note = folder.parent / f"{folder.name}.bytes"
    if note.exists():
        return Index.open(folder), None, int(note.read_text())
    index, text_bytes = Index.create(folder), 0

    def counted() -> Iterator[Document]:
        nonlocal text_bytes
        for number, document in enumerate(passages.documents(0, count)):
            text_bytes += len(document.body) + len(document.title)
            if number % 50_000 == 0:
                print(f"{number:,} passages", file=sys.stderr, flush=True)
            yield document

    start = time.perf_counter()
    index.add(counted())
    index.close()  # merges end
    seconds = time.perf_counter() - start
    note.write_text(str(text_bytes))
    return Index.open(folder), seconds, text_bytes


def latencies_ms(index: Index, queries: list[str]) -> dict[str, float]:
    """Percentiles of a search with its ten best passages, one at a time on one core."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    for query in queries[:200]:
        index.search(query, 10)
    times = []
    for query in queries[200:]:
        start = time.perf_counter()
        index.search(query, 10)
        times.append(1e3 * (time.perf_counter() - start))
    return {f"p{share:g}": float(np.percentile(times, share)) for share in (50, 90, 99, 100)}


def visible_s(index: Index, passages: Passages, count: int) -> float:
    """Seconds from handing over a thousand passages to finding the last of them."""
    fresh = [
        Document(f"fresh{number}", f"{one.body} freshness{number}", one.title)
        for number, one in enumerate(passages.documents(count, FRESH))
    ]
    start = time.perf_counter()
    index.add(fresh)
    found = index.search(f"freshness{FRESH - 1}")
    seconds = time.perf_counter() - start
    if [hit.id for hit in found] != [f"fresh{FRESH - 1}"]:
        sys.exit("what was added is not found")
    index.delete(one.id for one in fresh)
    return seconds


def main() -> None:
    """Build if need be, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--passages", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=3_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--build-only", action="store_true")
    arguments = parser.parse_args()
    passages = Passages()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary, "index")
        index, build_s, text_bytes = built(folder, passages, arguments.passages)
        stats = index.stats()
        result: dict[str, Any] = {
            "benchmark": "retrieval_speed",
            "passages": stats["passages"],
            "build_s": build_s,
            "text_bytes": text_bytes,
            "index_share_of_text": round(stats["index_bytes"] / text_bytes, 3),
            "stored_share_of_text": round(stats["stored_bytes"] / text_bytes, 3),
        }
        if not arguments.build_only:
            queries = passages.queries(arguments.queries + 200, arguments.passages)
            result["search_ms"] = latencies_ms(index, queries)
            result["visible_s"] = visible_s(index, passages, arguments.passages)
        index.close()
    for name, value in result.items():
        print(f"{name:<24}{value}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
