"""Spelling: what is changed, and what had better stay."""

from __future__ import annotations

import pytest

from miaotui.retrieval.ingest.spelling import corrected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the goverment has", "the government has"),
        ("recieved a mesage", "received a message"),
        ("Goverment of Xqzt, GOVERMENT", "Goverment of Xqzt, GOVERMENT"),
        ("kubectl and x86-goverment", "kubectl and x86-goverment"),
        ("plain words stay", "plain words stay"),
        ("中文 stays", "中文 stays"),
    ],
)
def test_only_plain_misspellings_change(text: str, expected: str) -> None:
    assert corrected(text) == expected
