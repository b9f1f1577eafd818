"""Texts that are alike: neighbours against a slow oracle, clusters of clouds, chains of duplicates, names."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miaotui.errors import FieldError
from miaotui.tasks.groups import neighbours
from miaotui.tasks.groups.clusters import cluster, cluster_by_silhouette, silhouette, smoothed, units
from miaotui.tasks.groups.likeness import duplicate_groups, require_few, similar_texts, topic_groups
from miaotui.tasks.groups.naming import group_words
from miaotui.tasks.groups.neighbours import near_pairs, nearest
from miaotui.tasks.vectors import TextVectors

Floats = np.ndarray[Any, np.dtype[np.float32]]


def clouds(seed: int, groups: int, each: int, noise: float, width: int = 16) -> tuple[Floats, list[int]]:
    """Unit vectors around centres at right angles, and the centre of each."""
    rng = np.random.default_rng(seed)
    truth = [place % groups for place in range(groups * each)]
    rows = np.eye(groups, width)[truth] + noise * rng.standard_normal((len(truth), width)) / np.sqrt(width)
    return units(rows.astype(np.float32)), truth


def read(vectors: Floats, errors: dict[int, str] | None = None) -> TextVectors:
    count = len(vectors)
    return TextVectors(vectors, tuple((errors or {}).get(place) for place in range(count)), (0,) * count)


def same_groups(one: list[int], other: list[int]) -> bool:
    return len(set(zip(one, other, strict=True))) == len(set(one)) == len(set(other))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), count=st.integers(1, 12), block=st.sampled_from([1, 7, 1000]))
def test_neighbours_are_those_of_a_slow_search(seed: int, count: int, block: int) -> None:
    vectors, _ = clouds(seed, 3, 4, 0.5)
    before, neighbours.BLOCK_NUMBERS = neighbours.BLOCK_NUMBERS, block
    try:
        found = nearest(vectors, vectors, count)
        pairs = {(int(a), int(b)) for one, two, _ in near_pairs(vectors, 0.7) for a, b in zip(one, two, strict=True)}
    finally:
        neighbours.BLOCK_NUMBERS = before
    cosines = vectors.astype(np.float64) @ vectors.T
    for row, places in enumerate(found.places.tolist()):
        assert len(set(places)) == count
        assert cosines[row][places] == pytest.approx(np.sort(cosines[row])[::-1][:count], abs=1e-5)
    slow = {(a, b) for a in range(12) for b in range(a + 1, 12) if cosines[a, b] >= 0.7}
    assert all(abs(cosines[pair] - 0.7) < 1e-5 for pair in pairs ^ slow)


def test_of_equally_near_texts_the_first_ones_are_found() -> None:
    vectors = np.repeat(np.eye(2, dtype=np.float32), 5, axis=0)
    assert nearest(vectors[:1], vectors, 3).places.tolist() == [[0, 1, 2]]


def test_clouds_become_clusters() -> None:
    vectors, truth = clouds(1, 5, 20, 0.6)
    found = cluster(smoothed(vectors), 5)
    assert same_groups(found.members.tolist(), truth)
    again = cluster(smoothed(vectors), 5)
    assert again.centres.tobytes() == found.centres.tobytes()


def test_the_number_of_clusters_is_found() -> None:
    vectors, _ = clouds(2, 6, 30, 0.4)
    found = cluster_by_silhouette(smoothed(vectors))
    assert 5 <= len(found.centres) <= 8
    assert silhouette(vectors, cluster(vectors, 6)) > silhouette(vectors, cluster(vectors, 3))


def test_equal_vectors_and_one_vector_can_be_grouped() -> None:
    equal = np.ones((4, 3), np.float32) / np.float32(np.sqrt(3))
    assert len(cluster(equal, 3).members) == 4
    assert cluster_by_silhouette(equal[:1]).members.tolist() == [0]


@pytest.mark.parametrize("count", [0, -1, 5, 5000])
def test_numbers_of_groups_that_cannot_be(count: int) -> None:
    with pytest.raises(FieldError, match="groups: must be a whole number from 1 to 4"):
        cluster(clouds(1, 2, 2, 0.1)[0], count)


def test_groups_have_members_names_and_errors() -> None:
    texts = ["red apple", "green apple", "apple pie", "", "fast train", "late train", "train station"]
    vectors, _ = clouds(0, 2, 1, 0.0)
    rows = np.stack([vectors[0]] * 3 + [np.zeros(16, np.float32)] + [vectors[1]] * 3)
    found = topic_groups(read(rows, {3: "texts[3]: must not be empty"}), texts, groups=2, model="tiny")
    assert [each.group for each in found.texts] == [0, 0, 0, None, 1, 1, 1]
    assert found.texts[3].error == "texts[3]: must not be empty"
    assert [each.words[0] for each in found.groups] == ["apple", "train"]
    assert found.groups[1].members == (4, 5, 6)
    assert found.groups[0].example in (0, 1, 2)
    assert found.counts == {"texts": 6, "groups": 2, "errors": 1}
    assert found.to_json()["texts"][0]["similarity"] == pytest.approx(1.0, abs=1e-5)
    assert topic_groups(read(rows[3:4], {0: "empty"}), [""], model="tiny").groups == ()


def test_chains_of_pairs_are_duplicates() -> None:
    angles = np.array([0.0, 0.2, 0.4, 1.5, 3.0, 3.0])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    texts = ["a b", "a b c", "b c", "other", "end", "end"]
    found = duplicate_groups(read(vectors), texts, least=float(np.cos(0.25)), model="tiny")
    assert [each.group for each in found.texts] == [0, 0, 0, None, 1, 1]
    assert [each.members for each in found.groups] == [(0, 1, 2), (4, 5)]
    assert duplicate_groups(read(vectors[:0]), [], model="tiny").groups == ()
    with pytest.raises(FieldError, match="least"):
        duplicate_groups(read(vectors), texts, least=0.0, model="tiny")


def test_similar_texts_are_found_for_each_query() -> None:
    vectors, _ = clouds(0, 3, 1, 0.0)
    rows = read(np.stack([vectors[2], vectors[0], np.zeros(16, np.float32)]), {2: "texts[2]: must not be empty"})
    asked = read(vectors[:2], {1: "texts[1]: must not be empty"}).named("queries")
    first, second = similar_texts(asked, rows, ["c", "a", ""], top=5, least=0.5, model="tiny")
    assert [(each.index, each.text) for each in first.found] == [(1, "a")]
    assert second.error == "queries[1]: must not be empty"
    with pytest.raises(FieldError, match="top"):
        similar_texts(asked, rows, ["c", "a", ""], top=0, model="tiny")


def test_names_leave_out_words_of_all_groups() -> None:
    groups = [["my card is lost", "my card was stolen", "card lost"], ["my train is late", "my train was full"]]
    assert group_words(groups, 1) == [["card"], ["train"]]
    assert group_words([["123", "!"]], 2) == [[]]


def test_too_many_texts_are_refused() -> None:
    with pytest.raises(FieldError, match="50,001 texts exceed 50,000"):
        require_few(50_001)
