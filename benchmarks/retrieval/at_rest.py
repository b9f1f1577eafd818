"""Opening, adding to and deleting from an index, plain and encrypted: what do they cost?

Makes an index of passages of made-up words in a folder of its own, and times, for each kind: the load, opening it, a
search, adding one document, and deleting one from the largest segment. Prints one JSON line at the end; sizes are those
of the files on disk.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from miaotui.retrieval import Document, Index
from miaotui.sealing.master_keys import KEY_VARIABLE

WORDS = 20_000  # different ones
PASSAGE_WORDS = 80


def passages(count: int) -> Iterator[Document]:
    """Yield documents of one passage each, the same ones in each call."""
    drawn = random.Random(7)
    weights = [1 / (rank + 1) for rank in range(WORDS)]
    for number in range(count):
        words = drawn.choices(range(WORDS), weights, k=PASSAGE_WORDS)
        yield Document(str(number), " ".join(f"w{word}" for word in words))


def seconds(work: Callable[[], Any], times: int = 1) -> float:
    """Return the median time of some calls."""
    found = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return round(statistics.median(found), 4)


def measured(folder: Path, count: int) -> dict[str, Any]:
    """Return the times of one index."""
    index = Index.create(folder)
    load_s = seconds(lambda: index.add(passages(count)))
    index.close()
    size_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    open_s = seconds(lambda: Index.open(folder).close(), 5)
    search_s = seconds(lambda: index.search(f"w5 w{random.randrange(WORDS)}"), 50)
    add_s = seconds(lambda: index.add([Document("one more", "a short text")]), 5)
    delete_s = seconds(lambda: index.delete([str(random.randrange(count))]), 3)
    index.close()
    return {
        "load_s": load_s,
        "size_bytes": size_bytes,
        "open_s": open_s,
        "search_s": search_s,
        "add_s": add_s,
        "delete_s": delete_s,
    }


def main() -> None:
    """Measure both kinds and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--passages", type=int, default=50_000)
    parsed = parser.parse_args()
    found: dict[str, Any] = {"benchmark": "retrieval.at_rest", "passages": parsed.passages}
    for kind in ("plain", "encrypted"):
        os.environ.pop(KEY_VARIABLE, None)
        if kind == "encrypted":
            os.environ[KEY_VARIABLE] = base64.b64encode(os.urandom(32)).decode()
        with tempfile.TemporaryDirectory() as folder:
            found[kind] = measured(Path(folder) / "index", parsed.passages)
        print(kind, found[kind])
    print(json.dumps(found))


if __name__ == "__main__":
    main()
