"""Time of reranking: a question with 8 sentences of at most 64 tokens, beside the limit of 8-bit products.

    miaotui pull reranker
    python -m benchmarks.encoders.rerank_speed [--threads 2]

Each pair, special tokens included, has as many tokens as given (the sentence 64 less the question's). The limit is the
multiply-adds of the weight matrices at the rate of 8-bit products that `miaotui doctor` measures. The scores are those
of `Encoder.score`, from words to numbers, each time of other sentences. Prints medians, and one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np

import miaotui
from benchmarks.encoders.speed import Words, products
from benchmarks.machine import describe
from miaotui.hub.resolve import resolve
from miaotui.kernels.linear.formats import Format
from miaotui.kernels.platform.measure import int8_rate
from miaotui.model.encoder.opened import open_encoder
from miaotui.text.encoders.load import load_encoder_tokenizer

QUESTION_TOKENS = 12
SENTENCES = 8


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="reranker")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=64, help="of each pair")
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    path = resolve(options.model)
    with open_encoder(path) as opened:
        words = Words(load_encoder_tokenizer(opened.metadata, opened.folder, lower_case=opened.lower_case))
        macs = products(opened.config) * SENTENCES * options.tokens
    clock, processor = [], []
    with miaotui.load_encoder(path, threads=options.threads) as encoder:
        for _ in range(options.rounds + 2):
            question, *sentences = words.batch(
                [QUESTION_TOKENS] + [options.tokens - QUESTION_TOKENS + 2] * SENTENCES
            ).words  # both counts have two special tokens, a pair has three
            pairs = [(question, sentence[: sentence.rfind(" ")]) for sentence in sentences]
            begun_s, begun_cpu_s = time.perf_counter(), time.process_time()
            encoder.score(pairs)
            clock.append(time.perf_counter() - begun_s)
            processor.append(time.process_time() - begun_cpu_s)
    rates = {"int8": int8_rate(options.threads), "int8_q8": int8_rate(options.threads, form=Format.Q8)}
    took_ms, cpu_ms = (1e3 * float(np.median(each[2:])) for each in (clock, processor))
    row = {
        "processor": describe().processor,
        "threads": options.threads,
        "pairs": SENTENCES,
        "tokens of a pair": options.tokens,
        "ms": round(took_ms, 2),
        "p99 ms": round(1e3 * float(np.percentile(clock[2:], 99)), 2),
        "cpu ms": round(cpu_ms, 2),
    }
    for name, rate in rates.items():
        limit_ms = macs / (rate * 1e9) * 1e3
        row |= {f"GMAC/s {name}": round(rate, 1), f"times the limit {name}": round(took_ms / limit_ms, 2)}
    print("  ".join(f"{name} {value}" for name, value in row.items()))
    print(json.dumps({"benchmark": "rerank_speed", **row}))


if __name__ == "__main__":
    main()
