"""Times in which a suffix index drafts and learns, at up to ten million tokens.

    python -m benchmarks.speculation.drafts

Tokens are drawn with Zipf's frequencies and come in texts of 300, a third of which repeat an
earlier one; every question to the index is the end of a text of 200 tokens, half of them known.
Also: what one token costs a request that only looks at its own prompt and answer. Prints a table and
one JSON line.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import describe
from miaotui.speculation.drafters.suffix import SuffixIndex

TEXT, PROMPT, QUESTIONS = 300, 200, 4000
VOCABULARY = 49_152


def texts(count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """``count`` tokens in texts of `TEXT`, int64 ``[texts, TEXT]``."""
    rows = count // TEXT
    made = np.minimum(rng.zipf(1.2, (rows, TEXT)), VOCABULARY - 1).astype(np.int64)
    for row in np.flatnonzero(rng.random(rows) < 1 / 3):
        made[row] = made[rng.integers(0, row + 1)]
    return made


def timed(work: Callable[[], object]) -> float:
    """Microseconds."""
    start = time.perf_counter()
    work()
    return 1e6 * (time.perf_counter() - start)


def filled(count: int, rng: np.random.Generator) -> tuple[SuffixIndex, NDArray[np.int64], float]:
    """An index of ``count`` tokens, its texts, and microseconds for each token."""
    made = texts(count, rng)
    index = SuffixIndex(count)

    def fill() -> None:
        for text in made:
            index.extend(text)
            index.end_text()

    return index, made, timed(fill) / made.size


def questions(index: SuffixIndex, made: NDArray[np.int64], rng: np.random.Generator) -> tuple[list[float], float]:
    """Microseconds of each question, and the share that found something."""
    took, found = [], 0
    for number in range(QUESTIONS):
        reader = SuffixIndex(PROMPT)
        known = made[rng.integers(0, len(made))][:PROMPT]
        reader.extend(known if number % 2 else rng.permutation(known))
        took.append(timed(partial(index.find, reader, most=1)))
        found += bool(index.find(reader, most=1))
    return took, found / QUESTIONS


def one_request(made: NDArray[np.int64]) -> float:
    """Microseconds to take in one token and to guess, for a request of 1,000 tokens and more."""
    text = SuffixIndex(4000)
    text.extend(made[:4].reshape(-1)[:1000])
    took = []

    def take_in(token: int) -> None:
        text.extend([token])
        text.find(text, most=1)

    for token in made[4:12].reshape(-1).tolist():
        took.append(timed(partial(take_in, token)))
    return float(np.median(took))


def main() -> None:
    """Run all sizes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    chosen = parser.parse_args()
    rng = np.random.default_rng(0)
    results = []
    print(f"{'tokens':>12}{'learn us/token':>16}{'guess us, median':>18}{'p99':>8}{'bytes/token':>13}")
    for count in chosen.tokens:
        index, made, learn_us = filled(count, rng)
        took, found = questions(index, made, rng)
        median, late = (float(np.percentile(took, q)) for q in (50, 99))
        size = index.size_bytes / count
        print(f"{count:>12,}{learn_us:>16.2f}{median:>18.1f}{late:>8.1f}{size:>13.0f}")
        results.append(
            {
                "tokens": count,
                "learn_us_per_token": round(learn_us, 3),
                "guess_us_median": round(median, 2),
                "guess_us_p99": round(late, 2),
                "bytes_per_token": round(size, 1),
                "found": round(found, 3),
            }
        )
    own = one_request(made)
    print(f"a request's own text: {own:.1f} us for a token taken in and a guess")
    print(
        json.dumps(
            {"benchmark": "drafts", "machine": describe().as_dict(), "results": results, "own_text_us": round(own, 2)}
        )
    )


if __name__ == "__main__":
    main()
