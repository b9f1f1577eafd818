"""Time of selecting a span with a chat model, beside that of its prompt alone (the multiply-adds that none can save).

    python -m benchmarks.apps.span_times --data FOLDER --language en --model qwen2.5-coder-0.5b

FOLDER holds ``xquad`` as published; the index has all paragraphs and is searched by words. Each question is read twice
in turn, its prompt alone and with its spans, nothing of it kept from before. The first of a pair alternates. Prints the
medians, the median of the ratios, by the clock and of processor time (which other programs disturb little), and one
JSON line last.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from pathlib import Path

import miaotui
from benchmarks.apps.answers import xquad
from benchmarks.apps.spans import fitting
from miaotui.apps.qa_pipeline import Question, look_up
from miaotui.apps.spans.phrase_scores import PhraseReader
from miaotui.apps.spans.selection import Selection, select
from miaotui.llm import LLM
from miaotui.retrieval import Index

UNLIMITED_TOKENS = 4_096


Times = tuple[float, float]  # in ms: by the clock, and of the processor, all threads together


def timed_ms(llm: LLM, selection: Selection, *, with_spans: bool, namespace: int) -> Times:
    """Milliseconds from the messages to the choice, or to the first token after the prompt."""
    started, worked = time.perf_counter(), time.process_time()
    prompt = llm.chat_tokens(selection.messages)
    if with_spans:
        selection.best(PhraseReader(llm, prompt, namespace=namespace), selection.spans())
    else:
        llm.generate(prompt, max_tokens=1, namespace=namespace)
    return 1e3 * (time.perf_counter() - started), 1e3 * (time.process_time() - worked)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--language", choices=("en", "zh"), required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--most", type=int, default=20, help="questions")
    parsed = parser.parse_args()
    asked, documents = xquad(parsed.data / "xquad", parsed.language)
    pairs: list[tuple[Times, Times]] = []
    namespaces = itertools.count(1)
    with tempfile.TemporaryDirectory() as place, Index.create(Path(place) / "x") as index:
        index.add(documents)
        with miaotui.load(parsed.model, threads=parsed.threads) as llm:
            for number in fitting(asked)[: parsed.most]:
                evidence = look_up(index, Question(asked[number].question, "x"))
                if not evidence.ranked:
                    continue
                selection = select(
                    evidence, lambda text: len(llm.tokenizer.encode(text)), UNLIMITED_TOKENS, llm.page_excess
                )
                order = (True, False) if number % 2 else (False, True)
                found = {each: timed_ms(llm, selection, with_spans=each, namespace=next(namespaces)) for each in order}
                pairs.append((found[False], found[True]))
    found_ms: dict[str, float | int] = {"questions": len(pairs)}
    for kind, name in enumerate(("clock", "processor")):
        alone, whole = ([each[kind] for each in side] for side in zip(*pairs, strict=True))
        ratio = statistics.median(spans / prompt for prompt, spans in zip(alone, whole, strict=True))
        prompt_ms, spans_ms = statistics.median(alone), statistics.median(whole)
        print(
            f"{parsed.language}, {name}: prompt {prompt_ms:.0f} ms, with its spans {spans_ms:.0f} ms, ratio {ratio:.2f}"
        )
        found_ms |= {f"{name}_prompt_ms": prompt_ms, f"{name}_spans_ms": spans_ms, f"{name}_ratio": round(ratio, 3)}
    print(json.dumps({"benchmark": "span_times", **found_ms}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
