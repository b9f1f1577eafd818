"""Citations: what is supported, what is dropped, and the same however the text comes."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from small_library import DOCUMENTS

from miaotui.apps.citations import Citing, support
from miaotui.apps.segmentation import terms_of

PASSAGES = [document.body for document in DOCUMENTS]


def cite(text: str, pieces: int = 1) -> tuple[str, Citing]:
    citing = Citing(PASSAGES)
    cuts = sorted(random.Random(pieces).choices(range(len(text) + 1), k=pieces - 1))
    bounds = [0, *cuts, len(text)]
    shown = [citing.push(text[a:b]) for a, b in pairwise(bounds)]
    return "".join(shown) + citing.close(), citing


def test_a_supported_sentence_gets_its_passage() -> None:
    text, citing = cite("Clara Voss built the lighthouse in 1874. Entry costs $14 for adults.")
    assert text == "Clara Voss built the lighthouse in 1874. [1] Entry costs $14 for adults. [2]"
    assert citing.numbers == (1, 2)
    assert citing.all_supported


def test_what_no_passage_says_is_not_cited() -> None:
    text, citing = cite("Penguins rule the quiet northern seas [1]. 青石桥建成于1923年。")
    assert text == "Penguins rule the quiet northern seas. 青石桥建成于1923年。 [3]"
    assert citing.dropped == [1]
    assert [each.passage for each in citing.cited] == [None, 3]
    assert not citing.all_supported


def test_a_wrong_number_is_no_support() -> None:
    passage = PASSAGES[0]
    terms = terms_of(passage)
    assert support("The lighthouse was built in 1874", terms, passage) == 1.0
    assert support("The lighthouse was built in 1875", terms, passage) == 0.0
    assert support("About 12500 people visit the lighthouse", terms, passage) == 1.0


def test_a_claimed_passage_that_supports_is_kept() -> None:
    text, citing = cite("The museum opens at nine [2][9]. The museum opens at nine [1, 2].")
    assert text == "The museum opens at nine. [2] The museum opens at nine. [2]"
    assert citing.dropped == [9, 1]


@pytest.mark.parametrize("pieces", [2, 5, 20, 60])
def test_pieces_do_not_matter(pieces: int) -> None:
    text = (
        "Dr. Clara Voss built the lighthouse [1] in 1874. It is 41 metres tall [7].\n"
        "青石桥位于云安市【3】。桥长二百一十米。 The U.S. is not mentioned, [really]."
    )
    whole, citing = cite(text)
    again, cut = cite(text, pieces)
    assert again == whole
    assert (cut.cited, cut.dropped) == (citing.cited, citing.dropped)
    assert "[really]" in whole


def test_nothing_said_is_nothing_cited() -> None:
    assert cite("")[0] == ""
    assert cite(" [1] ... [2]")[1].cited == []
