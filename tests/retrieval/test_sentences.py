"""Sentences and stretches: places in the text, in order, nothing lost."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from miaotui.retrieval.sentences import sentences, stretches


def test_sentences_end_where_they_end() -> None:
    text = 'Dr. Voss met J. R. Hallam. "Really?" he asked. 它很高。很老！'
    parts = [text[start:end] for start, end in sentences(text)]
    assert parts == ["Dr. Voss met J. R. Hallam.", '"Really?', '" he asked.', "它很高。", "很老！"]


def test_wrapped_lines_are_one_stretch() -> None:
    wrapped = "It has been known that the eigenvalues of a certain\nmatrix can be obtained by use of two smaller ones."
    lists = "Opening hours\nMonday nine to five, and on Tuesday until eight\nWednesday closed\n\nelsewhere"
    for text, count in ((wrapped, 1), (lists, 4)):
        parts = [text[start:end] for start, end in stretches(text, 500)]
        assert "\n".join(parts).split() == text.split()
        assert len(parts) == count


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.sampled_from([*"ab .!?。；\n”", "Dr.", "中", "a long line of more than forty characters"]), max_size=60
    ).map("".join),
    st.integers(1, 20),
)
def test_every_letter_lies_in_one_sentence(text: str, longest: int) -> None:
    for places in (sentences(text), stretches(text, longest)):
        said = "".join(text[start:end] for start, end in places)
        assert "".join(said.split()) == "".join(text.split())
        assert all(first[1] <= second[0] for first, second in pairwise(places))
    assert all(end - start <= longest for start, end in stretches(text, longest))
