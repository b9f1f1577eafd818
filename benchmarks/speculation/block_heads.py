"""Draft heads with masks beside those that draft token by token: how often each is right by depth, and its cost.

    python -m benchmarks.speculation.block_heads smollm2-135m --state runs --slice-minutes 10

Needs torch. Both heads have the same sizes and see the same texts of the model's own. They are trained for as many
steps, and a step has as many drafted tokens for both: the head without masks is unrolled for two tokens, the one with
masks for a whole block in a third of the windows. With ``--from HEAD`` (``shipped``: the one that comes with miaotui)
both start from its weights, and it is judged too. What they draft is compared with the model's own greedy choice on
texts that training has not seen. A depth is tried where all tokens before it were right. The cost is the time in which
a head drafts a whole block on the CPU, in passes of one row. A slice ends after ``--slice-minutes`` (status 3 where
something is left), and the same command goes on. Last comes one JSON line.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miaotui.backends.backend import probe_chunk
from miaotui.backends.cpu import draw
from miaotui.backends.cpu.backend import require_cpu
from miaotui.backends.options import EngineOptions
from miaotui.config import Settings
from miaotui.engine.loaded_model import LoadedModel
from miaotui.errors import RequestError
from miaotui.hub.resolve import resolve
from miaotui.kernels.draft.draft_fields import MAX_HEAD_DRAFT
from miaotui.model.draft_head.attention_spec import AttentionSpec, attention_spec_of
from miaotui.model.draft_head.packing import rows_of
from miaotui.model.draft_head.weights import FOLDER, MASKS, digest_of, load_head, read_head, write_head
from miaotui.model.packed import PackedModel
from miaotui.runtime import load_model
from miaotui.schedule.plan import Plan
from miaotui.speculation.drafters.head import DraftHead
from miaotui.speculation.drafters.protocol import HeadInput
from miaotui.speculation.train.cell import Cell
from miaotui.speculation.train.corpus import Corpus, Memory
from miaotui.speculation.train.dataset import WINDOWS, HeadDataset
from miaotui.speculation.train.kept import KeptTraining, collect_parts
from miaotui.speculation.train.trainer import LEFT, Recipe, train
from miaotui.training.torch_loading import load_torch

HELD_OUT = 0.1  # share of the texts
JUDGED = 10  # batches of windows: some 15,000 drafts
ROUNDS = 40  # of drafts that are timed

Arrays = dict[str, NDArray[np.float32]]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--batches", type=int, default=40, help="batches of 16 answers (default: 40)")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--tokens", type=int, default=Recipe.tokens)
    parser.add_argument("--width", type=int, default=Recipe.width)
    parser.add_argument("--from", dest="start", metavar="HEAD", help="a head's file, or shipped")
    parser.add_argument("--rate", type=float, default=Recipe.rate, help="highest learning rate")
    parser.add_argument("--windows", type=int, default=WINDOWS, help="of a step of the head without masks")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--slice-minutes", type=float, default=math.inf)
    chosen = parser.parse_args()
    end_s = time.monotonic() + 60 * chosen.slice_minutes
    torch, settings = load_torch(), Settings.from_env()
    torch.set_num_threads(chosen.threads)
    options = EngineOptions(context=4096, threads=chosen.threads)
    loaded = load_model(resolve(chosen.model, settings=settings), options, settings)
    corpus = collect_parts(loaded, chosen.batches, 0, chosen.state, end_s, told("batches"))
    if corpus is None:
        return LEFT
    seen, held = split(corpus)
    weights = require_cpu(loaded.parts.backend).weights
    everything = np.arange(loaded.config.vocab_size, dtype=np.int32)
    outer = weights.matrix("embed" if loaded.config.tied_head else "head")
    outputs = rows_of(outer, everything) * weights.vector("final_norm")
    embedding = rows_of(weights.matrix("embed"), everything)
    attention = attention_spec_of(loaded.config, weights, corpus.layer)
    start = started(chosen.start, weights)
    if start is not None:
        found, arrays = read_head(start)
        chosen.tokens, chosen.width = len(found), len(arrays["gate"])
    report: dict[str, Any] = {}

    def judge(name: str, path: Path, recipe: Recipe) -> None:
        tokens, arrays = read_head(path)
        right = agreement(torch, held, (embedding, outputs), recipe, tokens, arrays, attention)
        report[name] = {"right": right, "tokens_a_draft": expected(right), **cost(loaded, path)}

    if start is not None:
        judge("start", start, Recipe(chosen.tokens, chosen.width))
    for name, recipe in recipes(chosen).items():
        path = chosen.state / f"{name}-head.safetensors"
        if not path.is_file():
            kept = KeptTraining(chosen.state / f"{name}.safetensors", end_s, repr(recipe))
            said = told(f"{name}: loss at step")
            trained = train(seen, embedding, outputs, recipe, said, attention, kept, start=start)
            if trained is None:
                return LEFT
            write_head(path, trained)
        judge(name, path, recipe)
    show(report)
    sizes = {"texts": len(corpus.starts) - 1, "rows": len(corpus.tokens), "steps": chosen.steps}
    print(json.dumps({"benchmark": "block_heads", "model": chosen.model, **sizes, "heads": report}))
    return 0


def recipes(chosen: argparse.Namespace) -> dict[str, Recipe]:
    """Return the recipe of each head."""
    sizes = Recipe(chosen.tokens, chosen.width, steps=chosen.steps, rate=chosen.rate, windows=chosen.windows)
    fewer = max(chosen.windows * Recipe.depth // MAX_HEAD_DRAFT, 1)
    return {"masks": replace(sizes, masks=True, windows=fewer), "steps": sizes}


def show(report: dict[str, Any]) -> None:
    """Print a table."""
    depths = " ".join(f"{depth:>6}" for depth in range(1, MAX_HEAD_DRAFT + 1))
    print(f"{'head':6} {depths} {'tokens':>7} {'cost':>6}")
    for name, each in report.items():
        shares = " ".join(f"{share:6.3f}" for share in each["right"])
        print(f"{name:6} {shares} {each['tokens_a_draft']:7.2f} {each['passes']:6.2f}")


def started(head: str | None, weights: PackedModel) -> Path | None:
    """Return the file of the head to start from. Raises `RequestError` where none is shipped for the model."""
    if head != "shipped":
        return None if head is None else Path(head)
    path = FOLDER / f"{digest_of(weights)}.safetensors"
    if not path.is_file():
        raise RequestError("no head is shipped for this model: leave --from out, or name a file")
    return path


def told(what: str) -> Any:
    return lambda done, of: print(f"{what} {done}: {of:.3f}", file=sys.stderr, flush=True)


def split(corpus: Corpus) -> tuple[Corpus, Corpus]:
    """Return the texts to train on, and the last ones, which are held out."""
    count = len(corpus.starts) - 1
    cut = count - max(int(HELD_OUT * count), 1)
    return part(corpus, 0, cut), part(corpus, cut, count)


def part(corpus: Corpus, first: int, last: int) -> Corpus:
    """Return some texts of a corpus."""
    rows = slice(corpus.starts[first], corpus.starts[last])
    starts = corpus.starts[first : last + 1] - corpus.starts[first]
    memory = corpus.memory
    if memory is not None:
        found = memory.found[memory.begins[first] : memory.begins[last]]
        memory = Memory(found, memory.begins[first : last + 1] - memory.begins[first])
    values = (corpus.hidden[rows], corpus.middle[rows], corpus.tokens[rows])
    return Corpus(*values, starts, corpus.layer, memory)


def agreement(
    torch: Any,
    held: Corpus,
    tables: tuple[NDArray[np.float32], NDArray[np.float32]],
    recipe: Recipe,
    tokens: NDArray[np.int32],
    arrays: Arrays,
    attention: AttentionSpec | None,
) -> list[float]:
    """Return how often each depth of a draft is right, where all before it were.

    ``tables`` are embedding and outputs.
    """
    embedding, outputs = tables
    cell = Cell(torch, embedding.shape[1], recipe.width, attention, MASKS if recipe.masks else 0)
    with torch.no_grad():
        for name, weight in cell.weights.items():
            weight.copy_(torch.from_numpy(arrays[name]))
    dataset = HeadDataset(torch, held, embedding, outputs[tokens], MAX_HEAD_DRAFT, 1, attention is not None)
    tried, right = dataset.agreement(cell, tokens.astype(np.int64), JUDGED)
    return [float(each) for each in right / np.maximum(tried, 1)]


def expected(right: list[float]) -> float:
    """Return how many tokens of a whole draft are accepted on average."""
    return float(np.cumprod(right).sum())


def cost(loaded: LoadedModel, path: Path) -> dict[str, float]:
    """Return the time of a draft of a whole block, in milliseconds and in passes of one row."""
    backend = require_cpu(loaded.parts.backend)
    weights = load_head(path, backend.weights, loaded.config.tied_head)
    head = DraftHead(backend.draft_head(weights, 4))
    choice = draw.choice(None, 0, ())
    plan = Plan((probe_chunk(backend.limits, (1,), 64),))
    drafts, passes = [], []
    for _ in range(ROUNDS):
        start_s = time.perf_counter()
        backend.run(plan)
        passes.append(time.perf_counter() - start_s)
        start_s = time.perf_counter()
        head.begin([HeadInput(0, 5, 65, choice)])
        for _ in range(MAX_HEAD_DRAFT):
            head.step()
        drafts.append(time.perf_counter() - start_s)
    draft_s, pass_s = statistics.median(drafts), statistics.median(passes)
    return {"draft_ms": draft_s * 1e3, "pass_ms": pass_s * 1e3, "passes": draft_s / pass_s}


if __name__ == "__main__":
    sys.exit(main())
