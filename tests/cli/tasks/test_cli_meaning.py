"""Search by meaning at the command line: the hint that is given once, and folders that cannot be written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from miaotui.apps.meaning import encoders
from miaotui.cli.meaning import by_meaning
from miaotui.config import cache_error
from miaotui.retrieval import Document, Index
from miaotui.retrieval.meaning.bilingual import MeaningVectors
from miaotui.retrieval.meaning.hybrid import HybridIndex
from miaotui.retrieval.meaning.protocols import Floats, Prompt


class Here:
    """Encoders that are here: every text has one vector."""

    identity, reranker, english = "here", None, None

    @property
    def embedder(self) -> Here:
        return self

    def embed(self, texts: Sequence[str], prompt: Prompt) -> Floats:
        return np.ones((len(texts), 4), np.float32) / 2

    def load(self) -> None:
        pass

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    monkeypatch.setenv("MIAOTUI_HOME", str(tmp_path / "home"))
    with Index.create(tmp_path / "index") as made:
        made.add([Document("1", "a coat")])
        yield made


def test_without_the_embedder_that_is_told_once(index: Index, capsys: pytest.CaptureFixture[str]) -> None:
    for told in (1, 0, 0):
        with by_meaning(index) as searched:
            assert searched.index is index
        assert capsys.readouterr().err.count("miaotui pull embedder") == told


def test_a_folder_that_cannot_be_written_costs_a_warning(
    index: Index, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(self: MeaningVectors, *_: object) -> int:
        raise cache_error(OSError(13, "Permission denied"), index.folder)

    monkeypatch.setattr(encoders, "find_encoders", lambda **_: cast("encoders.Encoders", Here()))
    with by_meaning(index) as searched:
        assert isinstance(searched.index, HybridIndex)
        assert searched.index.vectors.is_current
    monkeypatch.setattr(MeaningVectors, "update", refused)
    with by_meaning(index) as searched:
        assert [hit.id for hit in searched.index.search("coat")] == ["1"]
    assert "Permission denied" in capsys.readouterr().err
