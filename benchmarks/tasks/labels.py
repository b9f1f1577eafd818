"""Quality of labels on public sets: heads over frozen encoders, with scikit-learn's probe over the same vectors.

    python -m benchmarks.tasks.labels DATA [--sets banking77,tnews] [--cache FOLDER]

DATA holds a folder for each set. Embeddings are kept in ``--cache``, by encoder and text, so that a second run takes
seconds. Prints each figure beside its bar, and one JSON line last. Splits and seeds are fixed and printed.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

import miaotui
from miaotui.libraries import need
from miaotui.tasks.calibration import report
from miaotui.tasks.classification import names_of, phrases_of, words_of
from miaotui.tasks.heads.head import fit_head, head_of_names
from miaotui.tasks.sentiments import NEGATIVE, POSITIVE, SENTIMENT_PHRASES
from miaotui.tasks.vectors import embed_texts

PRAISE = ("positive", "1")  # labels of sets
UNTRAINED = "sentiment"  # the sets without examples
ENGLISH, SENTIMENT, OTHER = "all-minilm-l6-v2", "bge-small-en", "embedder"
INTENTS = Path(__file__).with_name("banking77_descriptions.json")
SAVED_TEXTS = 500  # between two writes of the cache
DESCRIPTIONS = {
    "World": [
        "world politics, government, war and international affairs",
        "an election, a president or a prime minister abroad",
        "a bombing, an attack or fighting between soldiers and rebels",
        "peace talks, diplomacy and the United Nations",
        "terrorism, hostages and kidnapping",
        "a disaster, a crash or an epidemic in another country",
        "nuclear weapons programmes and sanctions",
        "protests, courts and human rights",
    ],
    "Sports": [
        "sports, games, teams and players",
        "a football, soccer or basketball match and its score",
        "baseball playoffs, a pitcher and a home run",
        "a golf or tennis tournament",
        "the Olympic Games, medals and athletes",
        "a coach, a transfer or a player's contract",
        "a race, a champion and a title",
    ],
    "Business": [
        "business, companies, economy, markets and finance",
        "stock prices and Wall Street",
        "oil prices and energy markets",
        "a company's quarterly profit and sales",
        "a takeover, a merger or a bid for a company",
        "jobs, inflation, interest rates and the central bank",
        "airlines, banks, retailers and car makers cut costs",
        "a lawsuit or fraud in a company and its executives",
    ],
    "Sci/Tech": [
        "science, technology, computers, internet and software",
        "Microsoft, Google, Apple and software",
        "computer viruses, spam and security flaws",
        "mobile phones, wireless networks and gadgets",
        "space, NASA, planets and satellites",
        "scientists, research, biology and climate",
        "video games, music downloads and online services",
        "chips, servers and supercomputers",
    ],
}  # of agnews' labels, whose names say little; written without looking at test texts
Pairs = list[tuple[str, str]]


class Vectors:
    """Unit vectors of texts by one encoder, kept in a file."""

    def __init__(self, folder: Path, encoder: str) -> None:
        self.encoder, self.path = encoder, folder / f"{encoder}.npz"
        self.known: dict[str, Any] = dict(np.load(self.path)) if self.path.exists() else {}

    def __call__(self, texts: Sequence[str]) -> Any:
        keys = [hashlib.sha256(text.encode()).hexdigest()[:24] for text in texts]
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in self.known}
        if new:
            with miaotui.load_encoder(self.encoder) as encoder:
                for part in batched(new.items(), SAVED_TEXTS):
                    read = embed_texts(encoder, [text or "-" for _, text in part])
                    self.known |= dict(zip((key for key, _ in part), read.values, strict=True))
                    part_path = self.path.with_suffix(".part.npz")
                    np.savez(part_path, **self.known)
                    part_path.replace(self.path)
        return np.stack([self.known[key] for key in keys])


def batched(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of so many items each."""
    rest = iter(items)
    while part := list(islice(rest, size)):
        yield part


def per_class(pairs: Pairs, count: int, seed: int) -> tuple[Pairs, Pairs]:
    """So many examples of each label, drawn with a seed, and the rest."""
    by_label: dict[str, list[int]] = defaultdict(list)
    for place in np.random.default_rng(seed).permutation(len(pairs)).tolist():
        by_label[pairs[place][1]].append(place)
    chosen = {place for places in by_label.values() for place in places[:count]}
    return [pairs[p] for p in sorted(chosen)], [pair for p, pair in enumerate(pairs) if p not in chosen]


def rows(path: Path, text: str, label: str) -> Pairs:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return [(row[text], row[label]) for row in csv.DictReader(file) if row[text].strip()]


def tabbed(path: Path) -> Pairs:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [(text, "positive" if label == "1" else "negative") for text, label in (x.rsplit("\t", 1) for x in lines)]


def json_lines(path: Path) -> Pairs:
    read = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [(each["sentence"], each["label_desc"]) for each in read]


def news(data: Path) -> Pairs:
    names = (data / "agnews/classes.txt").read_text().split("\n")
    with (data / "agnews/test.csv").open(encoding="utf-8", newline="") as file:
        return [(f"{title} {text}".replace("\\", " "), names[int(c) - 1]) for c, title, text in csv.reader(file)]


def hotels(data: Path) -> Pairs:
    pairs = rows(data / "chnsenticorp/ChnSentiCorp_htl_all.csv", "review", "label")
    return [pairs[p] for p in np.random.default_rng(0).permutation(len(pairs)).tolist()]


# A protocol gives (name, encoder, bar, examples, tests, descriptions of labels) for each seed.
Split = tuple[str, str, float, Pairs, Pairs, Mapping[str, Sequence[str]]]


def drawn(pairs: Pairs, most: int | None) -> Pairs:
    """At most so many tests, drawn with a seed by their texts, so that splits of one set share them."""
    if most is None or len(pairs) <= most:
        return pairs
    return sorted(pairs, key=lambda pair: hashlib.sha256(pair[0].encode()).digest())[:most]


def banking77(data: Path, most: int | None) -> Iterator[Split]:
    train, test = (rows(data / f"banking77/{name}.csv", "text", "category") for name in ("train", "test"))
    for count, bar in ((10, 0.88), (30, 0.91)):
        yield f"banking77, {count} a class", ENGLISH, bar, per_class(train, count, 0)[0], test, {}
    texts = json.loads(INTENTS.read_text(encoding="utf-8"))
    described = {label: [words_of(label), *each] for label, each in texts.items()}
    yield "banking77, 10 a class, described", ENGLISH, 0.88, per_class(train, 10, 0)[0], test, described


def agnews(data: Path, most: int | None) -> Iterator[Split]:
    for seed in range(3):
        train, rest = per_class(news(data), 8, seed)
        yield f"agnews, 8 a class, seed {seed}", ENGLISH, 0.82, train, drawn(rest, most), DESCRIPTIONS


def tnews(data: Path, most: int | None) -> Iterator[Split]:
    train, test = (json_lines(data / f"tnews/{name}.json") for name in ("train_0", "test_public"))
    yield "tnews, its own split", OTHER, 0.50, train, test, {}


def sst2(data: Path, most: int | None) -> Iterator[Split]:
    train, test = tabbed(data / "sst2/train.tsv"), tabbed(data / "sst2/test.tsv")
    for seed in range(3):
        yield f"sst2, 32 a class, seed {seed}", SENTIMENT, 0.82, per_class(train, 32, seed)[0], test, {}
    yield "sst2, all of train", SENTIMENT, 0.89, train, test, {}


def chnsenticorp(data: Path, most: int | None) -> Iterator[Split]:
    pairs = hotels(data)
    yield "chnsenticorp, 1,000 in train", OTHER, 0.87, pairs[:1000], drawn(pairs[1000:], most), {}


PROTOCOLS: dict[str, Callable[[Path, int | None], Iterator[Split]]] = {
    "banking77": banking77, "agnews": agnews, "tnews": tnews, "sst2": sst2, "chnsenticorp": chnsenticorp,
}  # fmt: skip


def labels(name: str, data: Path, cache: Path, most: int | None) -> Iterator[dict[str, Any]]:
    for title, encoder, bar, train, test, described in PROTOCOLS[name](data, most):
        vectors = Vectors(cache, encoder)
        words = phrases_of({label: described.get(label) for label in names_of(x for _, x in train)})
        flat = vectors([phrase for each in words.values() for phrase in each])
        named = dict(zip(words, np.split(flat, np.cumsum([len(each) for each in words.values()])[:-1]), strict=True))
        made, held = vectors([text for text, _ in train]), vectors([text for text, _ in test])
        began_s = time.perf_counter()
        wanted = [label for _, label in train]
        head = fit_head(made, wanted, encoder=encoder, prompt=None, names=named, are_descriptions=bool(described))
        fit_s = time.perf_counter() - began_s
        targets = [head.labels.index(label) for _, label in test]
        found = report(head.layer.logits(held), targets, head.temperature)
        yield {
            "task": title, "encoder": encoder, "train": len(train), "test": len(test), "bar": bar,
            "accuracy": round(found.accuracy, 4), "ece": round(found.calibration_error, 4), "fit_s": round(fit_s, 2),
            "names": head.n_names > 0, "rival": rival(made, wanted, held, [label for _, label in test]),
        }  # fmt: skip


def untrained(data: Path, cache: Path, most: int | None) -> Iterator[dict[str, Any]]:
    """Sentiment without any example: texts are compared with phrases of praise and of complaint."""
    sets = (
        ("sst2, without examples", SENTIMENT, tabbed(data / "sst2/test.tsv")),
        ("chnsenticorp, without examples", OTHER, drawn(hotels(data)[1000:], most)),
    )
    for title, encoder, test in sets:
        vectors = Vectors(cache, encoder)
        head = head_of_names(
            {label: vectors(phrases) for label, phrases in SENTIMENT_PHRASES.items()}, encoder=encoder, prompt=None
        )
        wanted = [head.labels.index(POSITIVE if label in PRAISE else NEGATIVE) for _, label in test]
        found = report(head.layer.logits(vectors([text for text, _ in test])), wanted, head.temperature)
        yield {
            "task": title, "encoder": encoder, "train": 0, "test": len(test), "bar": 0.75,
            "accuracy": round(found.accuracy, 4), "ece": round(found.calibration_error, 4),
        }  # fmt: skip


def rival(made: Any, labels: Sequence[str], held: Any, wanted: Sequence[str]) -> float:
    """Accuracy of scikit-learn's logistic regression over the same vectors, its penalty chosen by cross-validation."""
    linear_model, selection = need("sklearn.linear_model"), need("sklearn.model_selection")
    least = min(Counter(labels).values())
    search = selection.GridSearchCV(
        linear_model.LogisticRegression(max_iter=500), {"C": [1.0, 10.0, 100.0]}, cv=min(5, least)
    )
    return round(float((search.fit(made, labels).predict(held) == np.array(wanted)).mean()), 4)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", default=",".join([*PROTOCOLS, UNTRAINED]))
    parser.add_argument("--most-tests", type=int, help="of agnews and chnsenticorp, drawn by a hash of their texts")
    parser.add_argument("--cache", type=Path, default=Path("embeddings"))
    parsed = parser.parse_args()
    parsed.cache.mkdir(parents=True, exist_ok=True)
    results = []
    for name in parsed.sets.split(","):
        arguments = parsed.data, parsed.cache, parsed.most_tests
        for each in untrained(*arguments) if name == UNTRAINED else labels(name, *arguments):
            mark = "ok" if each["accuracy"] >= each["bar"] else "below"
            beside = f"  logistic regression {each['rival']}" if "rival" in each else ""
            line = f"{each['task']:32} {each['accuracy']:.4f} (bar {each['bar']}, {mark})  ECE {each['ece']}{beside}"
            print(line, file=sys.stderr, flush=True)
            results.append(each)
    print(json.dumps({"benchmark": "tasks", "results": results}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
