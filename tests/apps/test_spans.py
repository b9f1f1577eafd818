"""Spans cut out of passages: kinds of questions, candidates, sentences."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_library import DOCUMENTS

from miaotui.apps.question_types import Kind, asks_offer, kind_of, lacks_form
from miaotui.apps.segmentation import counted_of, words
from miaotui.apps.spans.candidates import candidates
from miaotui.apps.spans.ranking import RankedSentence, all_spans, best_spans, ranked_sentences
from miaotui.retrieval.sentences import sentences

BODIES = [document.body for document in DOCUMENTS]


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("How many people visit?", Kind.NUMBER),
        ("What percentage arrive by boat?", Kind.PERCENT),
        ("How much does entry cost?", Kind.MONEY),
        ("How long did it take?", Kind.DURATION),
        ("In which year was it built?", Kind.DATE),
        ("Who built it?", Kind.PERSON),
        ("Which famous physicist found it?", Kind.PERSON),
        ("Where is it?", Kind.PLACE),
        ("Why was it replaced?", Kind.REASON),
        ("What is it made of?", Kind.THING),
        ("桥有多长？", Kind.NUMBER),
        ("哪一年建成的？", Kind.DATE),
        ("谁设计了它？", Kind.PERSON),
        ("它位于哪里？", Kind.PLACE),
        ("为什么加固？", Kind.REASON),
        ("它产自什么山？", Kind.THING),
    ],
)
def test_questions_have_a_kind(question: str, kind: Kind) -> None:
    assert kind_of(question) is kind


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("When was the lighthouse of Arden Point built?", "1874"),
        ("Who built the lighthouse of Arden Point?", "Clara Voss"),
        ("How many people visit the lighthouse each year?", "12,500"),
        ("What percentage of the visitors arrive by boat?", "35%"),
        ("How much does entry cost for adults?", "$14"),
        ("Who gave the collection of clocks?", "Peter Hallam"),
        ("How long did it take to restore the oldest clock?", "three years"),
        ("青石桥是谁设计的？", "林远"),
        ("青石桥在哪一年建成？", "1923年"),
        ("谁在游记中称赞了白露茶的香气？", "约瑟夫·哈兰"),
    ],
)
def test_the_best_span_answers(question: str, answer: str) -> None:
    best = best_spans(question, BODIES)[0]
    assert answer in best.text
    assert len(best.text) <= len(answer) + 16
    assert BODIES[best.passage][best.start : best.end] == best.text


def test_spans_do_not_overlap_and_stay_in_their_sentence() -> None:
    spans = best_spans("Who built the lighthouse of Arden Point?", BODIES, 3)
    assert len(spans) == 3
    for number, span in enumerate(spans):
        assert span.sentence[0] <= span.start < span.end <= span.sentence[1]
        for other in spans[number + 1 :]:
            apart = span.end <= other.start or other.end <= span.start
            assert span.passage != other.passage or apart


def test_spans_say_whether_they_repeat_the_question_and_end_before_a_possessive() -> None:
    repeats = {
        span.text: span.repeats for span in all_spans("Who built the old bridge?", ["The old bridge is Reed's."])
    }
    assert repeats["old bridge"]
    assert not repeats["Reed"]
    assert "Reed's" not in repeats


def test_nothing_in_common_gives_nothing() -> None:
    assert best_spans("Quantum chromodynamics?", BODIES) == []
    assert best_spans("???", BODIES) == []
    assert best_spans("Who?", []) == []
    assert not any(each.support for each in ranked_sentences("", BODIES))


def test_names_and_numbers_stay_whole() -> None:
    found = {word.text for word in words("约瑟夫·哈兰走了7,000,000步，比例为28.5%")}
    assert {"约瑟夫·哈兰", "7,000,000", "28.5%"} <= found
    assert "$1,234.50" in {word.text for word in words("It cost $1,234.50 then.")}


@given(st.text(max_size=120), st.text(max_size=300))
@settings(max_examples=60, deadline=None)
def test_any_text_can_be_searched(question: str, passage: str) -> None:
    for span in best_spans(question, [passage]):
        assert passage[span.start : span.end] == span.text
    for word in words(passage):
        assert passage[word.start : word.end] == word.text


@pytest.mark.parametrize(
    ("question", "sentence", "lacks"),
    [
        ("What time do you close?", "The shop closes at 9 pm.", False),
        ("What time do you close?", "The shop sells bread.", True),
        ("周末几点能进去", "周六八点开放。", False),
        ("周末几点能进去", "入水前必须淋浴。", True),
        ("网断了打哪个号", "请拨打 400-555-0196。", False),
        ("网断了打哪个号", "资费减免两成。", True),
        ("what does it cost to park", "Each hour costs 2.", False),
        ("do I have to pay?", "Infants enter free of charge.", False),  # no form of its own
    ],
)
def test_sentences_without_the_form_that_is_asked_for(question: str, sentence: str, lacks: bool) -> None:
    assert lacks_form(kind_of(question), sentence) is lacks


@pytest.mark.parametrize(
    ("question", "offer"),
    [
        ("do you have a sauna?", True),
        ("is there wifi in the building", True),
        ("你们有实体店吗？", True),
        ("有没有会员卡", True),
        ("地毯能洗吗", False),
        ("who do you call?", False),
        ("有多少个房间", False),
        ("can I pay by card", False),
    ],
)
def test_questions_whether_there_is_something(question: str, offer: bool) -> None:
    assert asks_offer(question) is offer


@pytest.mark.parametrize(
    ("text", "held", "torn"),
    [
        (
            "It was the Alpha Television Service (ATS) of Arden.",
            "Alpha Television Service (ATS)",
            "Alpha Television Service (ATS",
        ),
        ("它由阿尔法电视网（ATS）推出。", "阿尔法电视网（ATS）", "阿尔法电视网（ATS"),
        ("The Service (see the long book of old songs) began.", "Service", "Service (see the long book"),
    ],
)
def test_a_name_is_held_with_its_short_form_in_brackets(text: str, held: str, torn: str) -> None:
    each = words(text)
    found = {text[each[first].start : each[last].end] for first, last in candidates(each, Kind.THING)}
    assert held in found
    assert torn not in found


@pytest.mark.parametrize(
    ("question", "noun"),
    [
        ("MLPerf有几种语言的版本？", "语言"),
        ("多少个权重共用一个比例？", "权重"),
        ("人口是多少？", ""),
        ("How many bridges cross the river?", "bridges"),
        ("Who built it?", ""),
    ],
)
def test_the_noun_that_is_counted_is_found(question: str, noun: str) -> None:
    assert counted_of(question) == noun


@pytest.mark.parametrize(
    ("text", "held"),
    [
        ("这座桥最大的难度在于水深。", "难度"),  # jieba takes the noun for an adverb
        ("他的专利卖了很多钱。", "他的专利"),
        ("这条河流非常宽，桥也很长。", "非常宽"),
        ("The bridge owes its width to the river.", "its width"),
        ("It opened in May 2013 after World War I and before the war.", "May 2013"),
        ("It opened in May 2013 after World War I and before the war.", "World War I"),
        ("The US Supreme Court closed the bridge.", "US Supreme Court"),
    ],
)
def test_what_looks_like_a_function_word_may_begin_or_end_a_phrase(text: str, held: str) -> None:
    each = words(text)
    assert held in {text[each[first].start : each[last].end] for first, last in candidates(each, Kind.THING)}


def test_little_words_stay_little() -> None:
    assert [word.term for word in words("May I ask us?")] == ["", "", "ask", "", ""]


def test_words_beside_a_date_cost() -> None:
    text = "The lighthouse was built in 1874 by Clara Voss. It is old."
    assert best_spans("When was the lighthouse built?", [text])[0].text == "1874"


@pytest.mark.parametrize(
    ("question", "other", "wanted"),
    [
        (
            "can my 8 year old come on his own",
            "Infants below two years enter free of charge.",
            "Children younger than ten must be accompanied by an adult.",
        ),
        (
            "which days do kids learn to swim?",
            "The swimming hall opens at 6:30 am on weekdays and at 8 am at weekends.",
            "Beginners' lessons for children take place on Tuesday and Thursday at 4 pm.",
        ),
    ],
)
def test_where_words_say_little_the_sentence_best_by_meaning_answers(question: str, other: str, wanted: str) -> None:
    passage = f"{other} {wanted}"
    places = sentences(passage)
    by_meaning = [RankedSentence(0, *places[1], support=1.0), RankedSentence(0, *places[0], support=0.95)]
    (found,) = best_spans(question, [passage], 1, by_meaning)
    assert passage[slice(*found.sentence)] == wanted


@pytest.mark.parametrize("text", ["He left Oslo. He came back.", "他离开奥斯陆。他回来了。"])
def test_the_words_of_a_sentence_are_their_callers_own(text: str) -> None:
    start, end = sentences(text)[1]
    first = words(text, start, end)
    kept = list(first)
    assert all(text[word.start : word.end] == word.text for word in kept)
    first.clear()
    assert words(text, start, end) == kept
    moved = words(text[start:end])  # the sentence elsewhere: other places, equal words
    assert [(word.start + start, word.text, word.term) for word in moved] == [(w.start, w.text, w.term) for w in kept]
