"""Rankings follow BM25 over live passages, however they are laid out."""

from __future__ import annotations

import math
import random
from collections import Counter
from pathlib import Path

import pytest
from made_documents import WORDS, made_documents, made_word

from miaotui.retrieval import Document, Index, IndexSettings

QUERIES = [
    "batov",
    f"{WORDS[0]} {WORDS[30]} {WORDS[70]}",
    f"+{WORDS[1]} {WORDS[2]}^2.5 -{WORDS[3]}",
    f'"{WORDS[0]} {WORDS[1]}"~3 {WORDS[9]}',
    f'"{WORDS[0]} {WORDS[1]}" {WORDS[2]}',
    f"({WORDS[4]} OR title:{WORDS[5]}) AND {WORDS[0]} tag:even",
    f"{WORDS[6][:3]}* {WORDS[7]}~1",
]


def ranking(index: Index, query: str, limit: int = 20) -> list[tuple[str, float]]:
    return [(hit.id, hit.score) for hit in index.search(query, limit)]


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory: pytest.TempPathFactory) -> list[Index]:
    """The same passages in 1, 2 and 5 partitions, after the same changes in other orders."""
    documents, indexes = made_documents(600), []
    gone = [f"d{number}" for number in range(0, 600, 7)]
    for partitions in (1, 2, 5):
        folder = tmp_path_factory.mktemp("laid") / str(partitions)
        index = Index.create(folder, IndexSettings(partitions=partitions))
        random.Random(partitions).shuffle(documents)
        for start in range(0, 600, 100 * partitions):
            index.add(documents[start : start + 100 * partitions])
        index.delete(gone)
        index.update([Document("d5", f"{WORDS[0]} {WORDS[30]}", "changed")])
        indexes.append(index)
    return indexes


@pytest.mark.parametrize("query", QUERIES)
def test_partitions_do_not_change_the_ranking(laid_out: list[Index], query: str) -> None:
    expected = ranking(laid_out[0], query)
    assert expected
    for index in laid_out[1:]:
        found = ranking(index, query)
        assert [name for name, _ in found] == [name for name, _ in expected]
        assert [score for _, score in found] == pytest.approx([s for _, s in expected], rel=1e-5)


def test_random_queries_rank_alike(laid_out: list[Index]) -> None:
    chance = random.Random(3)
    for _ in range(60):
        query = " ".join(made_word(chance) for _ in range(chance.randint(1, 6)))
        limit = chance.randint(1, 40)
        first, *others = [[name for name, _ in ranking(index, query, limit)] for index in laid_out]
        assert all(other == first for other in others), query


def bm25(documents: list[Document], query: list[str], length_of: str) -> dict[str, float]:
    """Scores by the formula alone, for one field; lengths as they are, hence short documents."""
    texts = {one.id: getattr(one, length_of).split() for one in documents}
    mean = sum(map(len, texts.values())) / len(texts)
    scores: Counter[str] = Counter()
    for term in query:
        having = [name for name, words in texts.items() if term in words]
        idf = math.log(1 + (len(texts) - len(having) + 0.5) / (len(having) + 0.5))
        for name in having:
            count = texts[name].count(term)
            share = count / (count + 1.2 * (1 - 0.75 + 0.75 * len(texts[name]) / mean))
            scores[name] += idf * 2.2 * share
    return scores


@pytest.mark.parametrize("partitions", [1, 3])
def test_scores_are_those_of_the_formula(tmp_path: Path, partitions: int) -> None:
    documents = [
        Document(one.id, one.body) for one in made_documents(200, longest=39)
    ]  # lengths up to 39 are kept exactly
    plan = IndexSettings(partitions=partitions, weights={"body": 1.0})
    index = Index.create(tmp_path / "index", plan)
    index.add([*documents, Document("gone", f"{WORDS[0]} {WORDS[0]}")])
    index.delete(["gone"])
    query = [WORDS[0], WORDS[11], WORDS[50]]
    expected = bm25(documents, [stem for word in query for stem in index.analyzer.terms(word)], "body")
    found = dict(ranking(index, " ".join(query), 200))
    assert found.keys() == expected.keys()
    assert found == pytest.approx(expected, rel=1e-4)
