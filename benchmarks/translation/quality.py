"""Translation, English and Chinese: BLEU and chrF beside transformers in float32, and hostile texts.

    python -m benchmarks.translation.quality DATA [--pairs N] [--hostile N] [--transformers] [--cache FILE]
        [--limit-s S] [--ways en-zh zh-en]

DATA holds ``ntrex-en-zh``. Pairs are drawn with seed 0. Both engines get equal prompts (token ids), the weights of
one GGUF file (transformers' dequantized to float32), and choose greedily; ``first`` is the first answer,
paired with transformers', ``checked`` the call's own result, with its checks and further attempts. Answers are kept in
the cache, so that a run goes on where another one ended; differences of BLEU and of a sentence's mean chrF are of the
sentences that all have answered, with the intervals of samples of sentences. ``--transformers`` needs torch and
accelerate. Hostile texts are translated into the other language; loops and echoes are told by `hostile_texts`. Scores
by sacrebleu, whose signature is printed. One JSON line last.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import sacrebleu

import miaotui
from benchmarks.machine import describe
from benchmarks.translation.hostile_texts import echoes, hostile_texts, loops
from benchmarks.translation.transformers_greedy import GreedyTransformers
from miaotui.tasks.translation.calls import TRANSLATION_MODEL, translated
from miaotui.tasks.translation.translator import messages_for
from miaotui.tasks.writing.steps import WriteRequest, WriteSteps
from miaotui.tasks.writing.writer import Writer
from miaotui.translation.guards import fault_of, left_words
from miaotui.translation.languages import detect
from miaotui.translation.markup import pieces_of
from miaotui.translation.result import TranslationOptions
from miaotui.types import SamplingParams

TOKENS = 120
TOGETHER = 50
SAMPLES = 1_000  # of sentences, for the interval of a difference
BLOCK = 100  # pairs that all engines answer before the next ones
WAYS = (("en", "zh"), ("zh", "en"))
Answers = dict[str, str]
Row = dict[str, Any]
Rival = Callable[[Sequence[WriteRequest]], list[str]]


def read_pairs(data: Path, count: int) -> dict[str, list[str]]:
    """The sampled sentences by language, beside each other."""
    names = {"en": "newstest2019-src.eng.txt", "zh": "newstest2019-ref.zho-CN.txt"}
    lines = {
        code: (data / "ntrex-en-zh" / name).read_text(encoding="utf-8").split("\n") for code, name in names.items()
    }
    places = random.Random(0).sample(range(1997), 300)[:count]
    return {code: [each[place].strip() for place in places] for code, each in lines.items()}


def request_of(text: str, source: str, target: str) -> WriteRequest:
    return WriteRequest(messages_for(text, source, target, {}), SamplingParams(max_tokens=TOKENS))


def asked(request: WriteRequest) -> WriteSteps[str]:
    (answer,) = yield [request]
    return answer.text


def fill(cache: Path, known: dict[str, Answers], name: str, keys: Sequence[str], until_s: float, work: Any) -> None:
    """Answer the keys that the cache lacks, some at a time, and keep each lot."""
    answers = known.setdefault(name, {})
    left = [key for key in keys if key not in answers]
    for first in range(0, len(left), TOGETHER):
        if time.perf_counter() > until_s:
            return
        part = left[first : first + TOGETHER]
        answers.update(zip(part, work(part), strict=True))
        cache.write_text(json.dumps(known, ensure_ascii=False))
        print(f"{name}: {len(answers)}", file=sys.stderr, flush=True)


def transformers_answers(writer: Writer, path: Path) -> Rival:
    """A function from requests to transformers' greedy answers."""
    rival = GreedyTransformers(path, sorted(writer.llm.tokenizer.eos_ids), TOKENS)

    def answer(requests: Sequence[WriteRequest]) -> list[str]:
        found = rival.answer([writer.encoder.prompt(each) for each in requests])
        return [writer.llm.tokenizer.decode(each) for each in found]

    return answer


def first_answers(writer: Writer, ask: Callable[[str], WriteRequest], part: Sequence[str]) -> list[str]:
    """The model's first answer to each text, unchecked."""
    return writer.run([partial(asked, ask(text)) for text in part])


def rival_answers(answer: Rival, ask: Callable[[str], WriteRequest], part: Sequence[str]) -> list[str]:
    """The rival's answers to the requests that ours gets."""
    return answer([ask(text) for text in part])


def checked_answers(writer: Writer, part: Sequence[str], options: TranslationOptions, firsts: Answers) -> list[str]:
    """The call's own results; a first answer without a fault is one, since the request is equal."""
    found: Answers = {}
    for text in part:
        first = firsts.get(text, "")
        is_whole = first != "" and len(pieces_of(text, "text")) == 1 and not left_words(text, first, options.target)
        if is_whole and not fault_of(text, first, options.source, options.target):
            found[text] = first
    left = [text for text in part if text not in found]
    found.update(zip(left, (one.text or "" for one in translated(writer, left, options)), strict=True))
    return [found[text] for text in part]


def answer_pairs(
    writer: Writer,
    rival: Rival | None,
    way: tuple[str, str],
    part: Sequence[str],
    known: dict[str, Answers],
    cache: Path,
    until_s: float,
) -> None:
    """Fill the cache with the answers of all engines to some sentences."""
    source, target = way
    name = f"{source}-{target}"
    request = partial(request_of, source=source, target=target)
    fill(cache, known, f"{name} first", part, until_s, partial(first_answers, writer, request))
    options, firsts = TranslationOptions(target, source), known[f"{name} first"]
    part = [each for each in part if each in firsts]
    fill(
        cache, known, f"{name} checked", part, until_s, partial(checked_answers, writer, options=options, firsts=firsts)
    )
    if rival is not None:
        fill(cache, known, f"{name} transformers", part, until_s, partial(rival_answers, rival, request))


def scores(found: Answers, keys: Sequence[str], references: dict[str, str], target: str) -> Row:
    """BLEU and chrF of the answers that are there."""
    texts = [" ".join(found[key].split()) for key in keys]
    wanted = [[references[key] for key in keys]]
    bleu = sacrebleu.BLEU(tokenize="zh" if target == "zh" else "13a")
    chrf = sacrebleu.CHRF()
    found_bleu, found_chrf = (round(each.corpus_score(texts, wanted).score, 2) for each in (bleu, chrf))
    signatures = [str(each.get_signature()) for each in (bleu, chrf)]
    return {"bleu": found_bleu, "chrf": found_chrf, "signatures": signatures}


def difference(ours: Answers, theirs: Answers, keys: Sequence[str], references: dict[str, str], target: str) -> Row:
    """BLEU and a sentence's mean chrF, ours less theirs, with 95% intervals of samples of sentences, equal for both."""
    bleu = sacrebleu.BLEU(tokenize="zh" if target == "zh" else "13a")
    counts = np.array([[ngram_counts(bleu, each[key], references[key]) for key in keys] for each in (ours, theirs)])
    drawn = np.random.default_rng(0).integers(0, len(keys), (SAMPLES, len(keys)))
    made = [corpus_difference(counts[:, sample].sum(axis=1)) for sample in drawn]
    low, high = np.quantile(made, (0.025, 0.975))
    whole = corpus_difference(counts.sum(axis=1))
    chrf = sacrebleu.CHRF()
    sentences = [[chrf.sentence_score(each[key], [references[key]]).score for key in keys] for each in (ours, theirs)]
    more = np.subtract(*np.array(sentences))
    few, many = np.quantile(more[drawn].mean(axis=1), (0.025, 0.975))
    return {
        "bleu": round(whole, 2),
        "interval": [round(float(low), 2), round(float(high), 2)],
        "sentence_chrf": round(float(more.mean()), 2),
        "sentence_chrf_interval": [round(float(few), 2), round(float(many), 2)],
    }


def ngram_counts(bleu: sacrebleu.BLEU, found: str, wanted: str) -> list[int]:
    """What BLEU counts in one sentence: n-grams that match, n-grams, and both lengths."""
    one = bleu.corpus_score([" ".join(found.split())], [[wanted]])
    return [*one.counts, *one.totals, one.sys_len, one.ref_len]


def corpus_difference(counts: Any) -> float:
    """BLEU of the first system less that of the second one, from summed counts ``[2, 10]``.

    Smoothed as `sacrebleu.BLEU` does without options.
    """
    ours, theirs = (
        sacrebleu.BLEU.compute_bleu(row[:4], row[4:8], row[8], row[9], smooth_method="exp").score
        for row in counts.tolist()
    )
    return float(ours - theirs)


def hostile(writer: Writer, known: dict[str, Answers], cache: Path, count: int, until_s: float) -> dict[str, int]:
    """How many hostile texts were translated, refused, looped and echoed."""
    texts = random.Random(0).sample(hostile_texts(), min(count, 200))

    def work(part: Sequence[str]) -> list[str]:
        found: dict[str, str] = {}
        forms = {text: ("en" if detect(text).code == "zh" else "zh", form_of(text)) for text in part}
        for target, form in sorted(set(forms.values())):
            some = [text for text in part if forms[text] == (target, form)]
            done = translated(writer, some, TranslationOptions(target, form=form))
            found |= {text: json.dumps([one.text, one.error, one.target]) for text, one in zip(some, done, strict=True)}
        return [found[text] for text in part]

    fill(cache, known, "hostile", texts, until_s, work)
    rows = [(text, *json.loads(known["hostile"][text])) for text in texts if text in known["hostile"]]
    done = [(text, found, target) for text, found, _, target in rows if found is not None]
    return {
        "texts": len(rows), "translated": len(done), "with_an_error": len(rows) - len(done),
        "loops": sum(loops(text, found) for text, found, _ in done),
        "echoes": sum(echoes(text, found, target) for text, found, target in done),
    }  # fmt: skip


def form_of(text: str) -> Any:
    return "html" if text.startswith("<") else "markdown" if text.startswith(("#", "-")) else "text"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--pairs", type=int, default=300)
    parser.add_argument("--hostile", type=int, default=200)
    parser.add_argument("--transformers", action="store_true", help="ask transformers too, which is slow")
    parser.add_argument("--cache", type=Path, default=Path("translations.json"))
    parser.add_argument("--limit-s", type=float, default=1e9, help="stop asking after so long; run again to go on")
    parser.add_argument("--threads", type=int)
    names = ["-".join(way) for way in WAYS]
    parser.add_argument("--ways", nargs="+", choices=names, default=names, help="ways that are asked in this run")
    parsed = parser.parse_args()
    until_s = time.perf_counter() + parsed.limit_s
    pairs = read_pairs(parsed.data, parsed.pairs)
    known: dict[str, Answers] = json.loads(parsed.cache.read_text()) if parsed.cache.exists() else {}
    results: dict[str, Any] = {}
    with miaotui.load(TRANSLATION_MODEL, threads=parsed.threads) as llm:
        writer = Writer(llm)
        rival = transformers_answers(writer, llm.loop.model.path) if parsed.transformers else None
        for first in range(0, parsed.pairs, BLOCK):
            for source, target in (way for way in WAYS if "-".join(way) in parsed.ways):
                part = sorted(pairs[source][first : first + BLOCK], key=len)  # answers of a batch end at a time
                answer_pairs(writer, rival, (source, target), part, known, parsed.cache, until_s)
        for source, target in WAYS:
            references = dict(zip(pairs[source], pairs[target], strict=True))
            name = f"{source}-{target}"
            ways = [way for way in ("first", "checked", "transformers") if known.get(f"{name} {way}")]
            keys = [key for key in references if all(key in known[f"{name} {way}"] for way in ways)]
            if ways and keys:
                found = {way: scores(known[f"{name} {way}"], keys, references, target) for way in ways}
                for way in ways[:2] if "transformers" in ways else ():
                    other = known[f"{name} transformers"]
                    found[way]["beyond_transformers"] = difference(
                        known[f"{name} {way}"], other, keys, references, target
                    )
                results[name] = {"pairs": len(keys), **found}
                print(name, json.dumps(results[name]), file=sys.stderr)
        results["hostile"] = hostile(writer, known, parsed.cache, parsed.hostile, until_s) if parsed.hostile else {}
    print(
        json.dumps({"benchmark": "translation", "model": TRANSLATION_MODEL, **results, "machine": describe().as_dict()})
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
