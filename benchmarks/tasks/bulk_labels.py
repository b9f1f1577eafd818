"""Labels of a thousand short texts by an encoder and a head, beside ONNX Runtime's int8 pass over the same texts.

    python -m benchmarks.tasks.bulk_labels FOLDER [--onnx FILE] [--peer PYTHON] [--texts 1000] [--threads 2]

FOLDER is the encoder (MiniLM-L6: all-minilm-l6-v2), FILE an int8 ONNX export of it, PYTHON an interpreter that has
onnxruntime. Texts have 15 to 45 tokens, 30 in the mean. ``labels`` is the whole way from words to labels, ``states``
our backend from token ids to states, which is what ONNX Runtime is timed for: it gets the texts sorted by length, in
the batch that is fastest for it. They take turns; figures are medians. Shares are of the multiply-adds of the weight
matrices at the machine's rate of int8 products, of 4-bit weights (`miaotui doctor`) and of 8-bit ones. Prints one JSON
line last, with how many texts a second of that rate allows at most.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, get_args

import numpy as np

import miaotui
from benchmarks.encoders.engines import Peer, Texts
from benchmarks.encoders.speed import SHORT, Words, products
from benchmarks.machine import describe
from miaotui.backends.encoder_backend import EncoderBackend, TextRows
from miaotui.backends.options import Activations
from miaotui.hub.resolve import resolve
from miaotui.kernels.linear.formats import Format
from miaotui.kernels.platform.measure import int8_rate
from miaotui.model.encoder.opened import open_encoder
from miaotui.tasks import Classifier
from miaotui.text.encoders.load import load_encoder_tokenizer

BATCHES = (8, 32, 128)  # that ONNX Runtime is tried with
LABELS = 77
EACH = 4  # examples of a label that the head learns from


def made_texts(folder: Path, count: int) -> tuple[Texts, int]:
    """Texts of random words, and the multiply-adds of one token."""
    with open_encoder(folder) as opened:
        words = Words(load_encoder_tokenizer(opened.metadata, opened.folder, lower_case=opened.lower_case))
        sizes = np.random.default_rng(0).integers(SHORT[0], SHORT[1] + 1, count).tolist()
        return words.batch(sizes), products(opened.config)


def head_over(encoder: miaotui.Encoder, texts: Texts) -> Classifier:
    """A head of so many labels over some of the texts; which label a text has does not matter for its time."""
    examples = texts.words[: LABELS * EACH]
    return Classifier.fit(encoder, examples, [f"label {place % LABELS}" for place in range(len(examples))])


def in_batches(peer: Peer, texts: Texts, size: int) -> float:
    """Seconds of ONNX Runtime for all texts, sorted by length, in batches of a size."""
    order = sorted(range(len(texts.ids)), key=lambda place: len(texts.ids[place]))
    total_s = 0.0
    for begin in range(0, len(order), size):
        part = order[begin : begin + size]
        total_s += peer.run(Texts([texts.words[p] for p in part], [texts.ids[p] for p in part]))[0]
    return total_s


def in_passes(backend: EncoderBackend, texts: Texts) -> None:
    """Our backend alone: texts packed whole into passes."""
    part: list[TextRows] = []
    n_rows = 0
    for each in texts.ids:
        if n_rows + len(each) > backend.limits.rows:
            backend.encode(part)
            part, n_rows = [], 0
        part.append(TextRows(each))
        n_rows += len(each)
    backend.encode(part)


def timed(run: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    run()
    return time.perf_counter() - began_s


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder, or a name of the catalog")
    parser.add_argument("--onnx", type=Path, help="default: the only *.onnx of the folder")
    parser.add_argument("--peer", metavar="PYTHON")
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parsed = parser.parse_args()
    folder = Path(resolve(parsed.model))
    texts, macs = made_texts(folder, max(parsed.texts, LABELS * EACH))
    tokens = sum(map(len, texts.ids))
    rates = {"q4": int8_rate(parsed.threads), "q8": int8_rate(parsed.threads, form=Format.Q8)}
    peer = None
    if parsed.peer is not None:
        onnx = parsed.onnx or next(folder.glob("**/*.onnx"))
        peer = Peer(parsed.peer, "onnxruntime", onnx, parsed.threads)
    ways: dict[str, Callable[[], float]] = {}
    with ExitStack() as stack:
        for kind in get_args(Activations):
            encoder = stack.enter_context(miaotui.load_encoder(folder, threads=parsed.threads, activations=kind))
            classifier = head_over(encoder, texts)
            ways[f"labels, {kind}"] = partial(timed, partial(classifier.classify, texts.words))
            ways[f"states, {kind}"] = partial(timed, partial(in_passes, encoder.model.backend, texts))
        if peer is not None:
            best = min(BATCHES, key=lambda size: in_batches(peer, texts, size))
            ways["onnxruntime"] = lambda: in_batches(peer, texts, best)
        times: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(parsed.rounds + 1):
            for name, run in ways.items():
                time.sleep(0.2)
                took_s = run()
                if number:
                    times[name].append(took_s)
    if peer is not None:
        peer.close()
    found: dict[str, Any] = {
        name: {
            "texts_per_s": round(len(texts.ids) / median(each), 1),
            **{f"share_{form}": round(macs * tokens / (rate * 1e9) / median(each), 3) for form, rate in rates.items()},
        }
        for name, each in times.items()
    }
    most = {form: round(rate * 1e9 / (macs * tokens / len(texts.ids)), 1) for form, rate in rates.items()}
    machine = describe()
    for name, each in found.items():
        shares = ", ".join(f"{each[f'share_{form}']} of the {form} rate" for form in rates)
        print(f"{name:14} {each['texts_per_s']:8.1f} texts/s, {shares}")
    print(
        json.dumps(
            {
                "benchmark": "bulk_labels", "model": folder.name, "machine": machine.as_dict(),
                "threads": parsed.threads, "texts": len(texts.ids), "tokens": tokens, "gmac_s": rates,
                "most_texts_per_s": most, "ways": found,
            }
        )
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
