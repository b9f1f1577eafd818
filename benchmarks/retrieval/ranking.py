"""Quality of document search's ranking beside plain tantivy and bm25s, in one run.

    pip install miaotui bm25s PyStemmer
    python -m benchmarks.retrieval.ranking --data FOLDER        # or MIAOTUI_EVALUATION_DATA=FOLDER

FOLDER holds ``vaswani``, ``cacm``, ``cmrc2018`` and ``xquad`` as published (see README.md). The
first two are judged topics: mean average precision and nDCG@10 over all ranked passages up to 1000.
The others are questions: recall@1 and @5 of the paragraph a question was written for. Nothing is
tuned on these sets: fields, weights and the library's k1 = 1.2, b = 0.75 are the defaults of every
index. Prints a table, and one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from miaotui.retrieval import Document, Index, IndexSettings

DEPTH = 1_000
Ranker = Callable[[str, int], list[str]]


@dataclass(frozen=True)
class Collection:
    """Documents, queries and, for each query, the documents that answer it."""

    name: str
    documents: list[Document]
    queries: dict[str, str]
    relevant: dict[str, set[str]]
    judged: bool  # by topic, so that precision is what counts


def vaswani(folder: Path) -> Collection:
    documents = [Document(name, body) for name, body in _trec(folder / "doc-text.trec")]
    text = (folder / "query-text.trec").read_text(encoding="utf-8")
    topics = re.findall(r"<num>\s*(\d+)\s*</num>\s*<title>(.*?)</title>", text, re.DOTALL)
    queries = {name: " ".join(query.split()) for name, query in topics}
    return Collection("Vaswani", documents, queries, _judgements(folder / "qrels"), True)


def cacm(folder: Path) -> Collection:
    """Titles are the first paragraph; the rows of citation numbers at the end are not text."""
    documents = []
    for line in (folder / "cacm.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        title, _, body = row["text"].partition("\n\n")
        body = re.sub(r"(?m)^\d+\t\d+\t\d+$", "", body).strip()
        documents.append(Document(row["id"], body, " ".join(title.split())))
    queries = {name: " ".join(text.split()) for name, text in _trec(folder / "topics.cacm.txt")}
    relevant = {
        topic: {f"CACM-{int(name.rpartition('-')[2]):04d}" for name in names}
        for topic, names in _judgements(folder / "qrels.cacm.txt").items()
    }
    return Collection("CACM", documents, queries, relevant, True)


def questions(name: str, path: Path) -> Collection:
    documents, queries, relevant = list[Document](), dict[str, str](), dict[str, set[str]]()
    for article in json.loads(path.read_text(encoding="utf-8"))["data"]:
        for paragraph in article["paragraphs"]:
            document = Document(f"p{len(documents)}", paragraph["context"])
            documents.append(document)
            for question in paragraph["qas"]:
                queries[question["id"]] = question["question"]
                relevant[question["id"]] = {document.id}
    return Collection(name, documents, queries, relevant, False)


def _trec(path: Path) -> Iterator[tuple[str, str]]:
    text = path.read_text(encoding="utf-8")
    for name, body in re.findall(r"<DOCNO>\s*(\S+)\s*</DOCNO>(.*?)</DOC>", text, re.DOTALL):
        yield name, body.strip()


def _judgements(path: Path) -> dict[str, set[str]]:
    relevant: dict[str, set[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        topic, _, name, grade = line.split()
        if int(grade) > 0:
            relevant.setdefault(topic, set()).add(name)
    return relevant


# ---- subjects ------------------------------------------------------------------------------------


def ours(collection: Collection, folder: Path) -> Ranker:
    index = Index.create(folder / "ours", IndexSettings(passage_chars=0))
    index.add(collection.documents)
    return lambda query, limit: [hit.id for hit in index.search(query, limit, plain=True)]


def plain_tantivy(collection: Collection, folder: Path) -> Ranker:
    """tantivy as its tutorial has it: English stems, title and body, its own query parser."""
    import tantivy

    builder = tantivy.SchemaBuilder()
    builder.add_text_field("id", stored=True, tokenizer_name="raw")
    builder.add_text_field("title", tokenizer_name="en_stem")
    builder.add_text_field("body", tokenizer_name="en_stem")
    index = tantivy.Index(builder.build())
    writer = index.writer()
    for one in collection.documents:
        writer.add_document(tantivy.Document(id=one.id, title=one.title, body=one.body))
    writer.commit()
    index.reload()
    searcher = index.searcher()

    def rank(query: str, limit: int) -> list[str]:
        words = re.sub(r"[^\w]+", " ", query.lower())
        parsed, _ = index.parse_query_lenient(words, ["title", "body"])
        hits = searcher.search(parsed, limit).hits
        return [searcher.doc(address)["id"][0] for _, address in hits]

    return rank


def plain_bm25s(collection: Collection, folder: Path) -> Ranker:
    """bm25s with its tokenizer, stop words and Snowball stems; Chinese by jieba's words."""
    import bm25s
    import rjieba
    import Stemmer

    chinese = any("\u4e00" <= char <= "\u9fff" for char in collection.documents[0].body)
    stemmer = Stemmer.Stemmer("english")

    def read(texts: list[str]) -> object:
        if chinese:
            texts = [" ".join(rjieba.cut(text)) for text in texts]
            pattern = r"(?u)\b\w+\b"
            return bm25s.tokenize(texts, stopwords=None, token_pattern=pattern, show_progress=False)
        return bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, show_progress=False)

    model = bm25s.BM25()
    bodies = [f"{one.title} {one.body}" for one in collection.documents]
    model.index(read(bodies), show_progress=False)
    names = [one.id for one in collection.documents]

    def rank(query: str, limit: int) -> list[str]:
        limit = min(limit, len(names))
        places, scores = model.retrieve(read([query]), k=limit, show_progress=False)
        return [names[place] for place, score in zip(places[0], scores[0], strict=True) if score > 0]

    return rank


SUBJECTS = {"miaotui": ours, "tantivy": plain_tantivy, "bm25s": plain_bm25s}

# ---- measures ------------------------------------------------------------------------------------


def average_precision(ranked: list[str], relevant: set[str]) -> float:
    found, total = 0, 0.0
    for place, name in enumerate(ranked, 1):
        if name in relevant:
            found += 1
            total += found / place
    return total / len(relevant)


def ndcg(ranked: list[str], relevant: set[str], depth: int = 10) -> float:
    gain = sum(1 / math.log2(place + 1) for place, name in enumerate(ranked[:depth], 1) if name in relevant)
    ideal = sum(1 / math.log2(place + 1) for place in range(1, min(depth, len(relevant)) + 1))
    return gain / ideal


def measure(collection: Collection, rank: Ranker) -> dict[str, float]:
    topics = [topic for topic in collection.queries if collection.relevant.get(topic)]
    depth = DEPTH if collection.judged else 5
    pairs = [(rank(collection.queries[t], depth), collection.relevant[t]) for t in topics]
    if collection.judged:
        scores = {"MAP": [average_precision(*pair) for pair in pairs], "nDCG@10": [ndcg(*pair) for pair in pairs]}
    else:
        scores = {
            "recall@1": [float(bool(set(ranked[:1]) & relevant)) for ranked, relevant in pairs],
            "recall@5": [float(bool(set(ranked) & relevant)) for ranked, relevant in pairs],
        }
    return {name: round(sum(values) / len(values), 4) for name, values in scores.items()}


def main() -> None:
    """Measure every subject on every collection."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", default=os.environ.get("MIAOTUI_EVALUATION_DATA"))
    parser.add_argument("--subjects", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    arguments = parser.parse_args()
    if not arguments.data:
        sys.exit("say where the data is: --data FOLDER or MIAOTUI_EVALUATION_DATA")
    data = Path(arguments.data)
    collections = [
        vaswani(data / "vaswani"),
        cacm(data / "cacm"),
        questions("CMRC 2018", data / "cmrc2018" / "cmrc2018_dev.json"),
        questions("XQuAD en", data / "xquad" / "xquad.en.json"),
        questions("XQuAD zh", data / "xquad" / "xquad.zh.json"),
    ]
    results: dict[str, dict[str, dict[str, float]]] = {}
    for collection in collections:
        for subject in arguments.subjects:
            with tempfile.TemporaryDirectory() as folder:
                row = measure(collection, SUBJECTS[subject](collection, Path(folder)))
            results.setdefault(collection.name, {})[subject] = row
            values = "  ".join(f"{name} {value:.4f}" for name, value in row.items())
            print(f"{collection.name:<10} {subject:<8} {values}", flush=True)
    print(json.dumps({"benchmark": "retrieval", "results": results}))


if __name__ == "__main__":
    main()
