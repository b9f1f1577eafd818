"""Published collections searched by words, by meaning, by both, and by both with the cross-encoder.

Owns what is measured of a collection: recall@1 and @5 of questions whose own paragraph is to be found, nDCG@10 and
recall@100 of judged topics, and the time of a search. An index that is kept goes on embedding where an earlier run was
ended. Invariant: every search ranks ids of the collection's documents, best first.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.retrieval.ranking import Collection, cacm, ndcg, questions, vaswani
from miaotui.apps.evidence import MAX_PASSAGES, Passage, gather
from miaotui.apps.meaning.encoders import Encoders
from miaotui.retrieval import Index, IndexSettings
from miaotui.retrieval.meaning.bilingual import ENGLISH, MeaningVectors
from miaotui.retrieval.meaning.hybrid import HybridIndex
from miaotui.retrieval.meaning.languages import is_chinese, is_english_passage
from miaotui.retrieval.meaning.vectors import PassageVectors

COLLECTIONS: dict[str, Callable[[Path], Collection]] = {
    "xquad-en": lambda data: questions("XQuAD en", data / "xquad" / "xquad.en.json"),
    "xquad-zh": lambda data: questions("XQuAD zh", data / "xquad" / "xquad.zh.json"),
    "cmrc": lambda data: questions("CMRC 2018", data / "cmrc2018" / "cmrc2018_dev.json"),
    "cacm": lambda data: cacm(data / "cacm"),
    "vaswani": lambda data: vaswani(data / "vaswani"),
}
SEARCHES = ("words", "dense", "hybrid", "hybrid + rerank")
Search = Callable[[str, int], list[str]]


def ranked(
    collection: Collection, encoders: Encoders, names: Sequence[str], most: int, keep: Path | None = None
) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield (collection and search, measures). Chinese questions are not reranked. ``keep``: where the index stays."""
    is_read_whole = is_chinese(next(iter(collection.queries.values())))
    with opened_index(collection, keep) as index:
        searches = searches_of(index, updated(collection, index, encoders), encoders)
        for name in names:
            if not (name == SEARCHES[3] and is_read_whole):
                yield f"{collection.name}, {name}", measured(collection, searches[name], most)


@contextmanager
def opened_index(collection: Collection, keep: Path | None) -> Iterator[Index]:
    """Open the index of a collection's documents; made unless an earlier run has kept it in ``keep``."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = (keep or Path(temporary)).resolve() / collection.name.replace(" ", "-").lower()
        if folder.exists():
            with Index.open(folder) as index:
                yield index
            return
        with Index.create(folder, IndexSettings(passage_chars=0)) as index:
            index.add(collection.documents)
            yield index


def updated(collection: Collection, index: Index, encoders: Encoders) -> MeaningVectors:
    """Make the vectors that are missing. English questions to English passages need those of English alone."""
    started = time.perf_counter()
    if encoders.english is not None and all(map(is_english_passage, index.passages())):
        PassageVectors(index, encoders.english, ENGLISH).update()
        vectors = MeaningVectors(index, encoders.embedder, encoders.english)
    else:
        vectors = MeaningVectors(index, encoders.embedder, encoders.english)
        vectors.update()
    took_s = time.perf_counter() - started
    print(f"{collection.name}: {len(vectors)} vectors in {took_s:.0f} s", file=sys.stderr, flush=True)
    return vectors


def searches_of(index: Index, vectors: MeaningVectors, encoders: Encoders) -> dict[str, Search]:
    """Return the searches by their names; each takes a question and how many documents to rank."""
    hybrid, for_reranking = HybridIndex(vectors), HybridIndex(vectors)  # each keeps the vectors of its questions

    def reranked(query: str, limit: int) -> list[str]:
        """Rank as questions are answered: by the best sentences of the best passages, which the cross-encoder reads."""
        found = for_reranking.search_sentences(query, MAX_PASSAGES)
        hits = zip(found.results, found.sentences, strict=True)
        passages = [Passage(hit.id, hit.passage.body, hit.passage.title, "", hit.score, each) for hit, each in hits]
        best = gather(query, passages, reranker=encoders.reranker).ranked
        more = for_reranking.search(query, limit, plain=True) if limit > MAX_PASSAGES else found.results
        return list(dict.fromkeys([*(passages[each.passage].id for each in best), *(hit.id for hit in more)]))[:limit]

    return {
        "words": lambda query, limit: [hit.id for hit in index.search(query, limit, plain=True)],
        "dense": lambda query, limit: list(vectors.nearest(vectors.embed_query(query), limit)),
        "hybrid": lambda query, limit: [hit.id for hit in hybrid.search(query, limit, plain=True)],
        "hybrid + rerank": reranked,
    }


def measured(collection: Collection, search: Search, most: int) -> dict[str, float]:
    """Return the measures of one search, over at most ``most`` queries, taken at equal distances."""
    topics = [topic for topic in collection.queries if collection.relevant.get(topic)]
    topics = topics[:: max(1, -(-len(topics) // most))]
    scores: dict[str, list[float]] = {}
    times, cpu = [], []
    for topic in topics:
        relevant = collection.relevant[topic]
        started, cpu_s = time.perf_counter(), time.process_time()
        names = search(collection.queries[topic], 100 if collection.judged else 5)
        times.append((time.perf_counter() - started) * 1e3)
        cpu.append((time.process_time() - cpu_s) * 1e3)
        for name, value in scores_of(names, relevant, collection.judged).items():
            scores.setdefault(name, []).append(value)
    means = {name: round(float(np.mean(values)), 4) for name, values in scores.items()}
    spans = {"p50 ms": times, "p99 ms": times, "p50 cpu ms": cpu, "p99 cpu ms": cpu}
    percentiles = {name: round(float(np.percentile(each, float(name[1:3]))), 1) for name, each in spans.items()}
    return {"queries": len(topics), **means, **percentiles}


def scores_of(names: list[str], relevant: set[str], judged: bool) -> dict[str, float]:
    """Return the measures of one ranking."""
    if judged:
        return {"nDCG@10": ndcg(names, relevant), "recall@100": len(relevant.intersection(names)) / len(relevant)}
    return {"recall@1": float(not relevant.isdisjoint(names[:1])), "recall@5": float(not relevant.isdisjoint(names))}
