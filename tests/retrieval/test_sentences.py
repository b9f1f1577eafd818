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


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from([*"ab .!?。；\n”", "Dr.", "中"]), max_size=60).map("".join), st.integers(1, 20))
def test_every_letter_lies_in_one_sentence(text: str, longest: int) -> None:
    for places in (sentences(text), stretches(text, longest)):
        said = "".join(text[start:end] for start, end in places)
        assert "".join(said.split()) == "".join(text.split())
        assert all(first[1] <= second[0] for first, second in pairwise(places))
    assert all(end - start <= longest for start, end in stretches(text, longest))
