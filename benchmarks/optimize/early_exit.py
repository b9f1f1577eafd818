"""Loss of early exit: layers after one are left out for the tokens about which the stream is already sure.

    python -m benchmarks.optimize.early_exit smollm2-135m --data DATA    # a table and one JSON line

After layer ``k`` the final norm and the output matrix are applied to the stream (the logit lens). Where the likeliest
token has at least the probability ``threshold``, the stream stays as it is from there on, and later layers compute
that position's keys and values from it: later tokens read them (state propagation, Schuster et al. 2022, section 3.2).
Texts: greedy answers of the model itself, its own sampled texts, wikitext2 and Chinese news (DATA has the folders
wikitext2 and ntrex-en-zh). The gain is counted in bytes of weights that one row reads, since one row is bound by
memory: layers up to ``k`` and the output matrix for each token; for those that go on, the other layers and the output
matrix again; for those that leave, the matrices of keys and values. Owns the order of a run. Invariant: a
position that leaves changes no stream of its own, only what later positions read of it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import describe
from miaotui.config import Settings
from miaotui.hub.resolve import resolve
from miaotui.llm import load
from miaotui.optimize.layerwise import Array, LayerwiseModel, divergences, log_probabilities
from miaotui.optimize.source import GgufSource, open_source
from miaotui.optimize.texts.calibration import TextSet, token_rows
from miaotui.optimize.texts.openings import TEST
from miaotui.optimize.texts.own_texts import own_texts
from miaotui.text.load import load_tokenizer

ROW, PIECE = 128, 128  # tokens of a text, positions whose logits are computed at a time
THRESHOLDS = (0.5, 0.8, 0.9, 0.95, 0.99)
PLACES = (0.5, 0.67, 0.8, 0.9, 0.97)  # of the layers
Texts = list[list[int]]


@dataclass(frozen=True)
class Exit:
    """One layer and threshold: what leaves, what it costs, and the gain counted in bytes (above 1: fewer)."""

    layers: int
    threshold: float
    share: float  # of positions that leave
    agree: float  # of those, the share whose likeliest token is the whole model's, before anything is propagated
    same_top: float  # of all positions, with propagated keys and values
    kl: float
    gain: float
    bound: float  # the gain if it cost nothing to know which tokens may leave


def main() -> None:
    """Measure; print a table and a JSON line."""
    args = _arguments()
    path, began_s = resolve(args.model), time.perf_counter()
    with open_source(path) as source:
        model = LayerwiseModel(source.config, source.canonical())
        texts = _texts(path, source, Path(args.data), args.tokens)
        n_layers = source.config.n_layers
        chosen = sorted({max(1, round(n_layers * part)) for part in PLACES if round(n_layers * part) < n_layers})
        states = [model.embedded(texts)]
        for layer in range(n_layers):
            states.append(model.layer(states[-1], layer))
        head, last = model.head(), _joined(states[-1])
        base = [log_probabilities(head.head(last[at : at + PIECE])) for at in range(0, len(last), PIECE)]
        whole = np.concatenate([logs.argmax(1) for logs in base])
        found: list[Exit] = []
        for layers in chosen:
            sure, top = _lens(model, _joined(states[layers]))
            for threshold in THRESHOLDS:
                leaves = sure >= threshold
                share, agree = float(leaves.mean()), float((top == whole)[leaves].mean()) if leaves.any() else 1.0
                same, kl = _after(model, states[layers], layers, leaves, base)
                gains = _gain(source, layers, share), _gain(source, layers, share, asks=False)
                found.append(Exit(layers, threshold, share, agree, same, kl, *gains))
                print(_row(found[-1], n_layers), flush=True)
    about = {"benchmark": "early_exit", "model": args.model, "machine": describe().as_dict()}
    rows = [asdict(one) for one in found]
    best = {str(least): _best(found, least) for least in (0.999, 0.99, 0.98, 0.95)}
    summary = {"tokens": len(last), "layers": n_layers, "best": best, "seconds": round(time.perf_counter() - began_s)}
    print(json.dumps({**about, **summary, "rows": rows}))


def _texts(path: Path, source: GgufSource, data: Path, tokens: int) -> Texts:
    tokenizer = load_tokenizer(source.file.metadata, path.parent)
    with load(str(path), context=512, speculate=False) as llm:
        openings = TEST[:: max(1, len(TEST) // 12)]
        answers = llm.generate(list(openings), max_tokens=ROW, temperature=0, ignore_eos=True)
    greedy = TextSet("greedy", tuple(a + b.text for a, b in zip(openings, answers, strict=True)))
    own = own_texts(path, source.digest(), Settings.from_env())[1]
    english = TextSet("wikitext2", ((data / "wikitext2" / "test.txt").read_text()[:20_000],))
    chinese = (data / "ntrex-en-zh" / "newstest2019-ref.zho-CN.txt").read_text()[:10_000]
    sets = (greedy, own, english, TextSet("ntrex", (chinese,)))
    return [list(row) for each in sets for row in token_rows(tokenizer, each, ROW, 1024)[: max(1, tokens // ROW)]]


def _lens(model: LayerwiseModel, stream: Array) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the probability of the likeliest token at each position, and the token."""
    head = model.head()
    sure, top = [], []
    for start in range(0, len(stream), PIECE):
        logs = log_probabilities(head.head(stream[start : start + PIECE]))
        top.append(logs.argmax(1))
        sure.append(np.exp(logs.max(1).astype(np.float64)))
    return np.concatenate(sure), np.concatenate(top)


def _after(
    model: LayerwiseModel, states: Sequence[Array], layers: int, leaves: NDArray[np.bool_], base: Sequence[Array]
) -> tuple[float, float]:
    """Run the other layers where positions that left keep their stream; return same-top and mean divergence."""
    ends = np.cumsum([len(x) for x in states])
    parts = [each[:, None] for each in np.split(leaves, ends[:-1])]
    for layer in range(layers, model.config.n_layers):
        moved = model.layer(states, layer)
        states = [np.where(part, old, new) for part, old, new in zip(parts, states, moved, strict=True)]
    head, stream = model.head(), _joined(states)
    same, lost = [], []
    for number, log_p in enumerate(base):
        log_q = log_probabilities(head.head(stream[number * PIECE : (number + 1) * PIECE]))
        same.append(log_p.argmax(1) == log_q.argmax(1))
        lost.append(divergences(log_p, log_q))
    return float(np.concatenate(same).mean()), float(np.concatenate(lost).mean())


def _gain(source: GgufSource, layers: int, share: float, *, asks: bool = True) -> float:
    """Return bytes of a pass without exits, over those with ``share`` of rows leaving after ``layers``.

    With ``asks`` the output matrix is read after ``layers`` for every row, and once more for those that go on.
    """
    inner, head, keys = 0, 0, 0
    tensors = source.canonical()
    for name in tensors:
        size = tensors[name].size_bytes
        if name.startswith("layers."):
            inner += size
            keys += size * (name.rpartition(".")[2] in ("k", "v"))
    head = tensors["embed" if source.config.tied_head else "head"].size_bytes
    before, rest = inner * layers / source.config.n_layers, 1 - layers / source.config.n_layers
    with_exits = before + head + (1 - share) * (inner * rest + head * asks) + share * keys * rest
    return (inner + head) / with_exits


def _best(found: Sequence[Exit], least: float) -> dict[str, float] | None:
    """Return the exit of most gain whose answers' likeliest token stays in at least ``least`` of positions."""
    kept = [one for one in found if one.same_top >= least and one.share > 0]
    return asdict(max(kept, key=lambda one: one.gain)) if kept else None


def _joined(states: Sequence[Array]) -> Array:
    joined: Array = np.concatenate(states)
    return joined


def _row(one: Exit, n_layers: int) -> str:
    return (
        f"after {one.layers:2} of {n_layers}, p >= {one.threshold}: {100 * one.share:5.1f}% leave, "
        f"{100 * one.agree:6.2f}% of them agree; all: same top {100 * one.same_top:6.2f}%, KL {one.kl:.4f}, "
        f"gain in bytes {one.gain:.3f} (at best {one.bound:.3f})"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", required=True)
    parser.add_argument("--tokens", type=int, default=256, help="of each set of texts")
    return parser.parse_args()


if __name__ == "__main__":
    main()
