"""Wording of a graph's answers: the sentence says the answer and nothing else, or the entities stand alone."""

from __future__ import annotations

import pytest

from miaotui.errors import FieldError
from miaotui.retrieval.graph import GraphReader, KnowledgeGraph
from miaotui.tasks.graph_wording import MOST_ENTITIES, WordedAnswer, facts_of, says, wording_steps
from miaotui.tasks.writing.steps import WriteRequest, WrittenAnswer

READER = GraphReader(
    KnowledgeGraph(
        [
            ("anna_lind", "spouse", "Bo Berg"),
            ("Bo Berg", "profession", "carpenter"),
            *(("anna_lind", "children", f"Child {letter}") for letter in "abcdefg"),
            ("鲁迅", "妻子", "许广平"),
        ]
    )
)
QUESTION = "What is the profession of Anna Lind's spouse?"


def worded(question: str, written: str, *, is_cut: bool = False) -> tuple[WriteRequest, WordedAnswer]:
    """The request for a question's answer, and what becomes of what was written."""
    steps = wording_steps(READER.ask(question))
    (request,) = next(steps)
    with pytest.raises(StopIteration) as ended:
        steps.send([WrittenAnswer(written, is_cut)])
    return request, ended.value.value


def test_a_sound_sentence_is_the_text() -> None:
    request, found = worded(QUESTION, "Anna Lind's spouse, Bo Berg, is a carpenter.")
    assert found == WordedAnswer("Anna Lind's spouse, Bo Berg, is a carpenter.", True)
    prompt = request.messages[0]["content"]
    assert "anna lind | spouse | Bo Berg\nBo Berg | profession | carpenter" in prompt
    assert "Answer: carpenter" in prompt


@pytest.mark.parametrize(
    "written",
    [
        "",
        "Her spouse is a baker.",
        "Bo Berg is not a carpenter.",
        "Anna Lind is a carpenter.",
        "Bo Berg is a carpenter since 1987.",
        "He is a carpenter in lovely Stockholm, where the sun shines and birds sing all day.",
    ],
)
def test_an_unsound_sentence_is_dropped(written: str) -> None:
    assert worded(QUESTION, written)[1] == WordedAnswer("carpenter")


def test_a_sentence_that_was_cut_is_dropped() -> None:
    assert not worded(QUESTION, "Anna Lind's spouse, Bo Berg, is a carpenter", is_cut=True)[1].is_written


def test_chinese() -> None:
    request, found = worded("鲁迅的妻子是谁？", "鲁迅的妻子是许广平。")
    assert found.is_written
    assert "用一句话回答问题" in request.messages[0]["content"]
    assert not worded("鲁迅的妻子是谁？", "鲁迅的妻子不是许广平。")[1].is_written


def test_what_the_graph_lacks_is_not_worded() -> None:
    missing = READER.ask("the spouse of Bo Berg")
    many = READER.ask("the children of Anna Lind")
    assert len(many.entities) > MOST_ENTITIES
    for answer in (missing, many):
        with pytest.raises(StopIteration) as ended:
            next(wording_steps(answer))
        assert ended.value.value == WordedAnswer(answer.text)


def test_a_request_that_cannot_be_made_leaves_the_entities() -> None:
    steps = wording_steps(READER.ask(QUESTION))
    next(steps)
    with pytest.raises(StopIteration) as ended:
        steps.throw(FieldError("text", "too long"))
    assert ended.value.value == WordedAnswer("carpenter")


def test_the_check_looks_at_whole_words() -> None:
    answer = READER.ask(QUESTION)
    facts = facts_of(answer)
    assert says("The spouse is a carpenter.", answer, facts)
    assert not says("The spouse is a carpenters.", answer, facts)
