"""Frames of questions: where the answer would stand in a statement, in English and Chinese."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miaotui.apps.segmentation import words
from miaotui.apps.spans.frames import QuestionFrame, frame_features, frame_of


def standing(question: str, sentence: str, span: str) -> dict[str, float]:
    """Features of a span's place in the question's frame."""
    each = words(sentence)
    start = sentence.index(span)
    inside = [n for n, word in enumerate(each) if word.start < start + len(span) and word.end > start]
    return dict(frame_features(frame_of(question), each, inside[0], inside[-1]))


@pytest.mark.parametrize(
    ("question", "sentence", "right", "wrong", "feature"),
    [
        ("Who built it?", "Clara Voss built it for Arden.", "Clara Voss", "Arden", "frame_before_0"),
        ("What did they build?", "In 1874 they built a lighthouse.", "lighthouse", "1874", "frame_after_last"),
        ("In what does it live?", "It eats moss and lives in caves.", "caves", "moss", "frame_preposition"),
        ("What is it known for?", "It is old and known for clocks.", "clocks", "old", "frame_preposition"),
        ("它产自什么山？", "它种于春天，产自青山。", "青山", "春天", "frame_left"),
        ("青石桥位于哪里？", "青石桥建于1923年，位于安溪。", "安溪", "1923年", "frame_left"),
        ("谁发明了钟？", "林远发明了钟，住在安溪。", "林远", "安溪", "frame_right"),
    ],
)
def test_the_answer_stands_in_the_frame(question: str, sentence: str, right: str, wrong: str, feature: str) -> None:
    assert standing(question, sentence, right)[feature] > standing(question, sentence, wrong).get(feature, 0.0)


def test_a_question_without_a_question_word_has_no_frame() -> None:
    assert frame_of("Name the lighthouse.") == QuestionFrame()
    assert frame_of("灯塔的名字") == QuestionFrame()
    assert standing("Name the lighthouse.", "It is the lighthouse of Arden.", "Arden") == {}


@given(
    st.text(alphabet="what who in 谁在哪里建了多少。? ", max_size=30), st.text(alphabet="ab 谁建在了, 。", max_size=30)
)
def test_any_question_and_sentence_have_finite_features(question: str, sentence: str) -> None:
    frame, each = frame_of(question), words(sentence)
    assert frame == frame_of(question)
    for first in range(len(each)):
        values = [value for _, value in frame_features(frame, each, first, first)]
        assert all(0 < value <= 4 for value in values)
