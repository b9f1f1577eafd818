"""Questions over a knowledge graph (PathQuestion), and predicted links (UMLS).

    python -m benchmarks.tasks.graph DATA [--encoder NAME] [--parts questions,paraphrases,...] [--seeds 0,1,2]

DATA holds `pathquestion/` and `umls-kg/`. Protocol of questions: a random split 8:1:1 (seeds 0, 1, 2); words are
learned from the eight parts, the ninth is not used, the last is asked; right is the whole set of answers. Removed: one
edge of the proof, drawn by seed, is taken out, where no other edge leads from there by that relation; right is "not in
the graph". Paraphrases: 200 wordings of `graph_paraphrases.json` over the paths of the test questions; right as before.
Each without learning too: by the encoder and the names of the relations alone. Development: other questions, on which
constants were chosen, over paths of the ninth part: 60 paraphrases, 30 questions that no relation answers, and names in
other words, some of them of no entity. Links: filtered MRR and hits@10 over
both directions of the test triples; ties count by their mean rank. Prints one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from miaotui.apps.meaning.encoders import EncoderEmbedder, LazyEncoder
from miaotui.encoder import load_encoder
from miaotui.hub.resolve import resolve
from miaotui.retrieval.graph import GraphReader, KnowledgeGraph, Triple, read_triples
from miaotui.retrieval.graph.links import LinkPredictor

HERE = Path(__file__).parent
PARAPHRASES = 200


class Asked(NamedTuple):
    question: str
    subject: str
    relations: tuple[str, ...]
    answers: frozenset[str]
    path: tuple[str, ...]


def read_questions(path: Path) -> list[Asked]:
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        question, answer, route = line.split("\t")[:3]
        path_ = tuple(route.split("#")[:5])
        answers = frozenset(answer[answer.index("(") + 1 :].rstrip(")").rstrip("/").split("/"))
        found.append(Asked(question, path_[0], (path_[1], path_[3]), answers, path_))
    return found


def paraphrased(tests: Sequence[Asked], seed: int) -> list[Asked]:
    given = json.loads((HERE / "graph_paraphrases.json").read_text(encoding="utf-8"))
    draw = random.Random(seed)
    routes = list({each.path: each for each in tests}.values())
    found = []
    for place in range(PARAPHRASES):
        each = routes[place % len(routes)]
        first, second = each.relations
        forms = given["whole"].get(second, []) if draw.random() < 0.5 else []
        form = draw.choice(forms or given["with_noun"])
        words = {"first": draw.choice(given["first"][first]), "second": draw.choice(given["noun"][second])}
        found.append(each._replace(question=form.format(x=each.subject, **words)))
    return found


def accuracy(reader: GraphReader, tests: Iterable[Asked], shown: int = 0) -> tuple[float, list[float]]:
    right, took = [], []
    for each in tests:
        answer = reader.ask(each.question)
        right.append(set(answer.entities) == each.answers)
        took.append(answer.took_ms)
        if shown and not right[-1]:
            shown -= 1
            print(f"    {each.question} {each.relations} -> {answer.reading} {answer.probability:.2f} {answer.reason}")
    return float(np.mean(right)), took


def removed(graph: KnowledgeGraph, reader: GraphReader, tests: Iterable[Asked], seed: int) -> tuple[float, int]:
    draw, triples, right = random.Random(seed), list(graph), []
    for each in tests:
        at = draw.choice((0, 2))
        edge = Triple(*each.path[at : at + 3])
        others = [t for t in triples if t[:2] == edge[:2]]
        if len(others) > 1:
            continue
        graph.remove(edge)
        right.append(not reader.ask(each.question).found)
        graph.add([edge])
    return float(np.mean(right)), len(right)


def development(reader: GraphReader, held: Sequence[Asked], seed: int) -> dict[str, float]:
    """Measure the questions and names that constants were chosen on."""
    given, draw = json.loads((HERE / "graph_development.json").read_text(encoding="utf-8")), random.Random(seed)
    asked = []
    for relations, forms in given["answered"].items():
        routes = [each for each in held if " ".join(each.relations) == relations]
        chosen = [draw.choice(routes) for _ in forms if routes]
        asked += [
            each._replace(question=form.format(x=each.subject)) for form, each in zip(forms, chosen, strict=False)
        ]
    open_ = [reader.ask(form.format(x=draw.choice(held).subject)).found for form in given["unanswerable"]]
    named = {name: reader.ask(f"What is the profession of {name}?").subject for name in given["names"]}
    right = [named[name] == entity for name, entity in given["names"].items() if entity]
    wrong = [named[name] not in ("", entity) for name, entity in given["names"].items()]
    return {
        "development": accuracy(reader, asked)[0],
        "unanswerable_refused": 1 - float(np.mean(open_)),
        "names_found": float(np.mean(right)),
        "names_wrong": float(np.mean(wrong)),
    }


def questions(data: Path, embedder: EncoderEmbedder, parts: Sequence[str], given: Any) -> dict[str, Any]:
    triples, _ = read_triples(data / "pathquestion" / "2H-kb.txt")
    every = read_questions(data / "pathquestion" / "PQ-2H.txt")
    found: dict[str, Any] = {}
    for seed in map(int, given.seeds.split(",")):
        order = np.random.default_rng(seed).permutation(len(every))
        train = [every[at] for at in order[: int(0.8 * len(every))]]
        tests = [every[at] for at in order[int(0.9 * len(every)) :]]
        tests = tests[: given.limit or None]
        for learned in (True, False):
            graph = KnowledgeGraph(triples)
            reader = GraphReader(graph, embedder)
            began_s = time.perf_counter()
            if learned:
                reader.learn((each.question, each.subject, each.relations) for each in train)
            learn_s = time.perf_counter() - began_s
            row: dict[str, Any] = {"seed": seed, "learned": learned, "learn_s": round(learn_s, 2)}
            reader.ask(tests[0].question)
            if "questions" in parts:
                row["accuracy"], took = accuracy(reader, tests, given.shown)
                row["median_ms"], row["p99_ms"] = float(np.median(took)), float(np.quantile(took, 0.99))
                row["not_in_graph"], row["removed"] = removed(graph, reader, tests, seed)
            if "paraphrases" in parts:
                row["paraphrases"], took = accuracy(reader, paraphrased(tests, seed), given.shown)
                row["paraphrase_p99_ms"] = float(np.quantile(took, 0.99))
            if "development" in parts and learned:
                held = [every[at] for at in order[int(0.8 * len(every)) : int(0.9 * len(every))]]
                row |= development(reader, held, seed)
            row = {name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}
            print(json.dumps(row), flush=True)
            found.setdefault("learned" if learned else "untrained", []).append(row)
    return found


def links(data: Path) -> dict[str, Any]:
    train, valid, test = (read_triples(data / "umls-kg" / f"{name}.txt")[0] for name in ("train", "valid", "test"))
    began_s = time.perf_counter()
    predictor = LinkPredictor.fit(train)
    took_s = time.perf_counter() - began_s
    quality = predictor.evaluate(test, known=[*train, *valid, *test])
    row = {"fit_s": round(took_s, 1), **{name: round(value, 4) for name, value in quality.items()}}
    print("links", json.dumps(row), flush=True)
    return row


def size(count: int = 10_000) -> dict[str, Any]:
    """Index a made graph and ask 500 questions of two and three hops of it."""
    draw = random.Random(0)
    names = [f"{a} {b} {n}" for n in range(4) for a in ("north", "old", "grey", "red", "low") for b in _PLACES]
    kinds = ("capital", "neighbour", "founder", "river", "sister city", "mayor", "province", "language")
    rows = [(draw.choice(names), draw.choice(kinds), draw.choice(names)) for _ in range(count)]
    began_s = time.perf_counter()
    graph = KnowledgeGraph(rows)
    reader = GraphReader(graph)
    reader.ask("the capital of nowhere")
    index_s = time.perf_counter() - began_s
    took = []
    for _ in range(500):
        chosen = " of the ".join(draw.choice(kinds) for _ in range(draw.choice((2, 3))))
        name = draw.choice(names)
        if draw.random() < 0.3:
            name = name[:2] + name[3:]  # misspelt
        took.append(reader.ask(f"what is the {chosen} of {name}?").took_ms)
    row = {"triples": len(graph), "index_s": round(index_s, 2), "p99_ms": round(float(np.quantile(took, 0.99)), 1)}
    print("size", json.dumps(row), flush=True)
    return row


_BEGINNINGS = ("wood", "stone", "mill", "bridge", "hill", "lake", "ash", "oak")
_ENDINGS = ("ton", "ham", "by", "wick", "dale", "ford")
_PLACES = [beginning + ending for beginning in _BEGINNINGS for ending in _ENDINGS]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--encoder", default="all-minilm-l6-v2")
    parser.add_argument("--parts", default="questions,paraphrases,development,links,size")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--limit", type=int, default=0, help="test questions of each seed; 0: all")
    parser.add_argument("--shown", type=int, default=0, help="wrong answers that are printed")
    given = parser.parse_args()
    print(__doc__.split("Protocol of ")[1].rsplit("Prints", 1)[0])
    parts, found = given.parts.split(","), {}
    lazy = LazyEncoder(resolve(given.encoder), load_encoder)
    if {"questions", "paraphrases", "development"} & set(parts):
        found["questions"] = questions(given.data, EncoderEmbedder(lazy), parts, given)
    if "links" in parts:
        found["links"] = links(given.data)
    if "size" in parts:
        found["size"] = size()
    lazy.close()
    print(json.dumps({"benchmark": "graph", "encoder": given.encoder, **found}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
