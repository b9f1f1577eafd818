"""Search by meaning in a server: vectors made in the background, searches that never wait for them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from miaotui.apps.meaning.encoders import Encoders
from miaotui.errors import UnsupportedModelError
from miaotui.retrieval import Document, Index
from miaotui.retrieval.meaning.hybrid import HybridIndex
from miaotui.retrieval.meaning.protocols import Floats, Prompt
from miaotui.serve.documents.meaning import MeaningService


class Colours:
    """An embedder for two words that mean one thing."""

    identity = "colours"

    def embed(self, texts: Sequence[str], prompt: Prompt) -> Floats:
        vectors = np.full((len(texts), 4), 0.01, np.float32)
        for row, text in zip(vectors, texts, strict=True):
            row[0] += "red" in text or "crimson" in text
            row[1] += "blue" in text
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class Here:
    """Encoders that are here; counts how often they were closed."""

    def __init__(self, *, usable: bool = True) -> None:
        self.embedder, self.reranker, self.english = Colours(), None, None
        self.closed, self.usable = 0, usable

    def load(self) -> None:
        if not self.usable:
            raise UnsupportedModelError("broken")

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    with Index.create(tmp_path / "index") as made:
        made.add([Document("1", "a crimson coat"), Document("2", "a blue hat")])
        yield made


def service(here: Here, **options: Any) -> MeaningService:
    return MeaningService(cast("Encoders", here), **options)


def wait_for(check: Any, timeout_s: float = 10.0) -> None:
    until_s = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < until_s
        time.sleep(0.01)


def hybrid_of(meaning: MeaningService, index: Index) -> HybridIndex:
    assert meaning.searchable(index) is index  # nothing waits for the encoders
    wait_for(lambda: meaning.searchable(index) is not index)
    found = meaning.searchable(index)
    assert isinstance(found, HybridIndex)
    return found


def test_encoders_that_cannot_be_used_leave_words(index: Index) -> None:
    meaning = service(Here(usable=False))
    assert meaning.searchable(index) is index
    time.sleep(0.1)
    assert meaning.searchable(index) is index
    meaning.close()


def test_vectors_are_made_in_the_background(index: Index) -> None:
    here = Here()
    meaning = service(here)
    hybrid = hybrid_of(meaning, index)
    wait_for(lambda: hybrid.vectors.is_current)
    assert [hit.id for hit in hybrid.search("red", 1)] == ["1"]
    assert meaning.searchable(index) is hybrid
    index.add([Document("3", "a red scarf")])
    meaning.changed(index)
    wait_for(lambda: hybrid.vectors.is_current)
    meaning.close()
    meaning.changed(index)
    assert here.closed == 1


def test_busy_models_go_first_and_searches_do_not_wait(index: Index) -> None:
    busy = [True]
    meaning = service(Here(), is_busy=lambda: busy[0])
    hybrid = hybrid_of(meaning, index)
    assert [hit.id for hit in hybrid.search("blue")] == ["2"]
    time.sleep(0.1)
    assert not hybrid.vectors.is_current
    busy[0] = False
    wait_for(lambda: hybrid.vectors.is_current)
    meaning.close()


def test_closing_ends_the_work(index: Index) -> None:
    meaning = service(Here(), is_busy=lambda: True)
    hybrid = hybrid_of(meaning, index)
    started_s = time.monotonic()
    meaning.close()
    assert time.monotonic() - started_s < 5
    assert not hybrid.vectors.is_current
