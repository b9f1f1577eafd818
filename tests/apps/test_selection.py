"""Spans that a chat model selects: bound to a sentence, cited, within the budget; pieces that say an answer whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miaotui.apps.answering import Answer
from miaotui.apps.evidence import Passage, gather
from miaotui.apps.qa_pipeline import QaPipeline, Question
from miaotui.apps.question_types import AnswerForm, form_of
from miaotui.apps.spans.pieces import whole_piece
from miaotui.apps.spans.ranking import Span
from miaotui.apps.spans.selection import LEAST_PASSAGE_TOKENS, Selection, select
from miaotui.backends.options import EngineOptions
from miaotui.kernels.linear.formats import Format
from miaotui.llm import LLM
from miaotui.retrieval import Document, Index
from miaotui.retrieval.sentences import sentences
from miaotui.runtime import ModelOptions, open_model
from tiny_engine import settings_in
from tiny_models import make_tiny_folder
from tiny_tokenizer import write_tokenizer

OPTIONS = EngineOptions(format=Format.Q8, threads=1, chunk_size=64, context=2048)
TEXT = "The lighthouse of Arden was built in 1874 by Clara Voss. It is 41 metres tall."
PAGE = "介绍。\n常用的掩码策略有：\n- 随机掩码\n- 全词掩码\n- 片段掩码\n\n别的内容：甲；乙；丙。"


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    place = tmp_path_factory.mktemp("models")
    folder = make_tiny_folder(place, "llama", max_position_embeddings=2048)
    write_tokenizer(folder)
    with LLM(open_model(folder, ModelOptions(OPTIONS), settings=settings_in(place))) as llm:
        yield llm


def selecting(question: str = "Who built the lighthouse of Arden?", text: str = TEXT, budget: int = 1_000) -> Selection:
    return select(gather(question, [Passage("a", text)]), lambda each: len(each.split()), budget)


def span_of(selection: Selection, words: str) -> Span:
    return next(span for span in selection.spans() if span.text == words)


def said(words: str, question: str = "Who built the lighthouse of Arden?", text: str = TEXT) -> Answer:
    selection = selecting(question, text)
    return selection.answer(span_of(selection, words))


def test_any_model_selects_words_of_one_sentence(llm: LLM, tmp_path: Path) -> None:
    with Index.create(tmp_path / "library") as index:
        index.add([Document("arden", TEXT)])
        question = Question("Who built the lighthouse of Arden?", "library", "generated", deadline_ms=20_000)
        *_, answer = QaPipeline(index, llm).ask(question)
    assert isinstance(answer, Answer)
    assert (answer.how, answer.supported, answer.left_out) == ("selected", True, ())
    assert any(answer.span in TEXT[start:end] for start, end in sentences(TEXT))
    assert answer.span in answer.citations[0].quote


def test_a_question_of_yes_or_no_gets_the_sentence_without_the_model(llm: LLM, tmp_path: Path) -> None:
    with Index.create(tmp_path / "library") as index:
        index.add([Document("rules", "Dogs may enter the lighthouse on a lead. The lamp is lit at dusk.")])
        question = Question("May dogs enter the lighthouse?", "library", "generated", deadline_ms=20_000)
        *_, answer = QaPipeline(index, llm).ask(question)
    assert isinstance(answer, Answer)
    assert (answer.how, answer.text) == ("extractive", "Dogs may enter the lighthouse on a lead.")


def test_a_phrase_stands_alone_and_an_explanation_has_its_sentence() -> None:
    who = said("Clara Voss")
    assert (who.text, who.span, who.citations[0].quote) == ("Clara Voss", "Clara Voss", TEXT[:56])
    why = said("1874", "Why was the lighthouse of Arden built?")
    assert (why.text, why.span) == (TEXT[:56], "1874")


def test_a_span_of_the_wrong_form_shows_its_sentence() -> None:
    answer = said("Clara Voss", "How tall is the lighthouse of Arden?")
    assert (answer.text, answer.span) == (TEXT[:56], "Clara Voss")


def test_no_span_repeats_the_question_unless_it_names_the_choices() -> None:
    text = "The lighthouse of Arden is older than the lighthouse of Lowmere. It was built by Clara Voss."
    repeated = selecting("Who built the lighthouse of Arden?", text)
    assert not {"Arden", "lighthouse of Arden", "lighthouse"} & {span.text for span in repeated.spans()}
    choice = selecting("Which lighthouse is older, Arden or Lowmere?", text)
    assert {"Arden", "Lowmere"} <= {span.text for span in choice.spans()}


def test_spans_lie_in_sentences_that_are_read() -> None:
    heading = "Opening. Nothing here matters much to anybody at all. "
    selection = selecting(text=heading + TEXT, budget=20)
    read = {(sentence.start, sentence.end) for sentence in selection.read}
    for span in selection.spans():
        assert (heading + TEXT)[span.start : span.end] == span.text
        assert span.sentence[0] <= span.start < span.end <= span.sentence[1]
        assert span.sentence in read


def test_less_time_means_fewer_examples_then_fewer_sentences() -> None:
    text = " ".join(f"Sentence {n} says that keeper {n} painted the lighthouse of Arden." for n in range(80))
    sizes = []
    for budget in (10_000, 400, 120, 10):
        selection = selecting("Who painted the lighthouse of Arden?", text, budget)
        sizes.append(sum(len(message["content"].split()) for message in selection.messages))
        assert all(text[each.start : each.end] in selection.messages[-1]["content"] for each in selection.read)
        assert sizes[-1] <= max(budget, LEAST_PASSAGE_TOKENS + 60)
        expected = [("examples" in selection.evidence.left_out), ("passages" in selection.evidence.left_out)]
        assert expected == [budget < 300, budget < 1_000]
    assert sizes == sorted(sizes, reverse=True)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8))
def test_the_prompt_ends_near_a_page_and_keeps_the_sentences_that_rank(lengths: list[int]) -> None:
    beside = " ".join(f"It rained {'a lot ' * length}on day {n}." for n, length in enumerate(lengths))
    evidence = gather("Who built the lighthouse of Arden?", [Passage("a", f"{TEXT} {beside}")])

    def words_of(text: str) -> int:
        return len(text.split())

    def excess(messages: list[dict[str, str]]) -> int:
        return sum(words_of(message["content"]) for message in messages) % 16

    whole = select(evidence, words_of, 10_000)
    near = select(evidence, words_of, 10_000, excess)
    each_without_one = [
        excess([*whole.messages[:-1], {"role": "user", "content": whole.messages[-1]["content"].replace(text, "")}])
        for text in ((f"{TEXT} {beside}")[left.start : left.end] for left in whole.read if left not in evidence.ranked)
    ]
    assert excess(near.messages) <= max(1, min([excess(whole.messages), *each_without_one]))
    assert set(evidence.ranked) <= set(near.read) <= set(whole.read)
    assert len(near.read) >= len(whole.read) - 1


def test_the_sentence_that_fits_best_is_cited_where_several_have_the_span() -> None:
    text = "Clara Voss painted. Some rain fell. The lighthouse of Arden was built by Clara Voss. Nothing else is known."
    assert said("Clara Voss", text=text).citations[0].quote == "The lighthouse of Arden was built by Clara Voss."


@pytest.mark.parametrize(
    ("question", "form"),
    [
        ("Who built the bridge?", AnswerForm.PHRASE),
        ("Which artist made the woodcuts?", AnswerForm.PHRASE),
        ("What is the derivative of a changing momentum called?", AnswerForm.PHRASE),
        ("how many people use it", AnswerForm.PHRASE),
        ("What are the small tentacles on Cydippids called?", AnswerForm.PHRASE),
        ("Who decides how land is used?", AnswerForm.PHRASE),
        ("物体动量变化的导数叫什么？", AnswerForm.PHRASE),
        ("炎症发生是因为什么分子的存在?", AnswerForm.PHRASE),
        ("谁决定如何使用土地？", AnswerForm.PHRASE),
        ("多少钱", AnswerForm.PHRASE),
        ("哪位艺术家提供了木刻作品？", AnswerForm.PHRASE),
        ("What is MLPerf?", AnswerForm.SENTENCE),
        ("MLPerf是什么", AnswerForm.SENTENCE),
        ("什么是注意力机制？", AnswerForm.SENTENCE),
        ("Why was it moved?", AnswerForm.SENTENCE),
        ("可以带狗吗", AnswerForm.YES_OR_NO),
        ("小孩子要买票不", AnswerForm.YES_OR_NO),
        ("你们有没有桑拿", AnswerForm.YES_OR_NO),
        ("Do you have a sauna?", AnswerForm.YES_OR_NO),
        ("Is it open, and until when?", AnswerForm.PHRASE),
        ("学习率过大会怎样？", AnswerForm.SENTENCE),
        ("全词掩码为什么更好？", AnswerForm.SENTENCE),
        ("这座桥被命名为什么？", AnswerForm.PHRASE),
        ("什么是最有效的抗炎药?", AnswerForm.PHRASE),
        ("首任主席是谁？", AnswerForm.PHRASE),
        ("What was the average family size?", AnswerForm.PHRASE),
        ("哪些掩码策略", AnswerForm.LIST),
        ("How do I cancel?", AnswerForm.LIST),
        ("怎么退货", AnswerForm.LIST),
    ],
)
def test_the_form_of_an_answer(question: str, form: AnswerForm) -> None:
    assert form_of(question) is form


def piece(part: str, *, is_list: bool) -> str:
    start = PAGE.index(part)
    return PAGE[slice(*whole_piece(PAGE, (start, start + len(part)), is_list=is_list))]


def test_a_list_is_given_whole() -> None:
    whole = "常用的掩码策略有：\n- 随机掩码\n- 全词掩码\n- 片段掩码"
    assert piece("- 全词掩码", is_list=True) == whole
    assert piece("常用的掩码策略有：", is_list=False) == whole
    assert piece("- 全词掩码", is_list=False) == "- 全词掩码"
    assert piece("乙；", is_list=False) == "别的内容：甲；乙；丙。"
    assert piece("介绍。", is_list=True) == "介绍。"


@given(st.text(alphabet="ab.；:\n-1 。：", min_size=1, max_size=80), st.booleans())
def test_a_piece_holds_its_sentence(text: str, is_list: bool) -> None:
    for start, end in sentences(text):
        first, last = whole_piece(text, (start, end), is_list=is_list)
        assert 0 <= first <= start
        assert end <= last <= len(text)
