"""Memory of each process of a model whose layers are shared out, and whether the answer is that of one process.

    python -m benchmarks.serving.stage_memory [MODEL] [--stages 1,2,3] [--tokens 64]

Owns the reading of /proc (Linux). Of each process: resident bytes of its packed weights, which are mapped from a file,
and of everything else. Prints a table and one JSON line.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import re
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.machine import describe
from miaotui.backends.options import EngineOptions
from miaotui.backends.stages.backend import StagedBackend
from miaotui.engine.loop import EngineLoop
from miaotui.engine.reading import readers
from miaotui.hub.catalog import DEFAULT_MODEL
from miaotui.runtime import ModelOptions, open_model
from miaotui.types import SamplingParams

PROMPT = "Explain in a few sentences how a pipeline of machines computes the layers of a language model."


def resident(process: int) -> Mapping[str, int]:
    """Return the resident bytes of a process: of packed weights, of other files, and of its own memory."""
    found, kind = {"weights": 0, "other_files": 0, "own": 0}, "own"
    for row in Path(f"/proc/{process}/smaps").read_text().splitlines():
        head = re.match(r"[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ (\d+) *(.*)", row)
        if head:
            kind = "weights" if head[2].endswith(".packed") else "other_files" if head[1] != "0" else "own"
        elif row.startswith("Rss:"):
            found[kind] += 1024 * int(row.split()[1])
    return found


def measured(model: str, stages: int, tokens: int) -> dict[str, Any]:
    """Answer over ``stages`` processes; return the memory of each, and a digest of the answer's tokens."""
    options = ModelOptions(EngineOptions(context=2048, stages=stages, kv_tokens=4096), speculate=False)
    with closing(open_model(model, options)) as loop:
        assert isinstance(loop, EngineLoop)
        params = SamplingParams(max_tokens=tokens, temperature=1.0, seed=1, ignore_eos=True)
        prompt = loop.model.tokenizer.encode(PROMPT)
        (answer,) = readers.whole(loop, lambda: iter([loop.submit(prompt, params)]))
        backend, children = loop.engine.backend, list[int]()
        if isinstance(backend, StagedBackend):
            children = [link.child.pid for link in backend.links if link.child is not None]
        return {
            "stages": stages,
            "processes": [dict(resident(process)) for process in (os.getpid(), *children)],
            "weight_bytes": backend.stats().weight_bytes,
            "answer": hashlib.sha256(json.dumps(answer.token_ids).encode()).hexdigest()[:16],
        }


def main() -> None:
    """Run the measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default=DEFAULT_MODEL)
    parser.add_argument("--stages", default="1,2,3")
    parser.add_argument("--tokens", type=int, default=64)
    parsed = parser.parse_args()
    rows = []
    for count in parsed.stages.split(","):  # each in a process of its own: memory that one has used stays
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            rows.append(pool.apply(measured, (parsed.model, int(count), parsed.tokens)))
    for row in rows:
        for number, process in enumerate(row["processes"], 1):
            sizes = "  ".join(f"{name} {size / 1e6:8.1f} MB" for name, size in process.items())
            print(f"{row['stages']} stages, process {number}: {sizes}")
        print(f"{row['stages']} stages: answer {row['answer']}")
    print(json.dumps({"model": parsed.model, "rows": rows, "machine": asdict(describe())}))


if __name__ == "__main__":
    main()
