"""Questions to documents: extracted, written by a tiny model, kept, refused, not found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_library import open_library

from miaotui.apps.answering import Answer, Composing, checked_question, compose, extract
from miaotui.apps.evidence import Evidence, Passage, gather
from miaotui.apps.qa_pipeline import QaPipeline, Question, look_up
from miaotui.backends.options import EngineOptions
from miaotui.engine.request import Request
from miaotui.errors import RequestError
from miaotui.kernels.linear.formats import Format
from miaotui.llm import LLM
from miaotui.retrieval import Document, Index
from miaotui.retrieval.answers.cache import AnswerCache
from miaotui.runtime import ModelOptions, open_model
from tiny_engine import settings_in
from tiny_models import make_tiny_folder
from tiny_tokenizer import write_tokenizer

BUILT = "When was the lighthouse of Arden Point built?"
OPTIONS = EngineOptions(format=Format.Q8, threads=1, chunk_size=64, context=2048)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    with open_library(tmp_path_factory.mktemp("library")) as index:
        yield index


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    place = tmp_path_factory.mktemp("models")
    folder = make_tiny_folder(place, "llama", max_position_embeddings=2048)
    write_tokenizer(folder)
    with LLM(open_model(folder, ModelOptions(OPTIONS), settings=settings_in(place))) as llm:
        yield llm


def ask(desk: QaPipeline, question: Question) -> tuple[str, Answer]:
    parts = list(desk.ask(question))
    text, answer = "".join(part for part in parts if isinstance(part, str)), parts[-1]
    assert isinstance(answer, Answer)
    assert text.strip() == answer.text
    return text, answer


def test_a_span_is_extracted_with_its_sentence(library: Index) -> None:
    _, answer = ask(QaPipeline(library), Question(BUILT, "library"))
    assert (answer.text, answer.how, answer.found) == ("1874", "extractive", True)
    assert answer.citations[0].id.startswith("lighthouse")
    assert answer.citations[0].source == "arden.md"
    assert answer.text in answer.citations[0].quote
    assert answer.version == library.version


@pytest.mark.parametrize(
    ("question", "text"),
    [
        ("Which moon orbits Neptune backwards?", "Not found in the documents."),
        ("海王星有几颗卫星？", "文档中没有找到答案。"),
    ],
)
def test_what_is_not_there_is_not_found(library: Index, question: str, text: str) -> None:
    _, answer = ask(QaPipeline(library), Question(question, "library"))
    assert (answer.text, answer.how, answer.found, answer.citations) == (text, "none", False, ())


def test_a_model_writes_within_its_time(library: Index, llm: LLM) -> None:
    desk = QaPipeline(library, llm)
    question = Question("Why was the lamp replaced?", "library", "generated", deadline_ms=20_000, max_tokens=20)
    _, answer = ask(desk, question)
    assert answer.how in ("generated", "none")
    assert answer.version == library.version
    _, again = ask(desk, question)
    assert replace(again, took_ms=0) == replace(answer, took_ms=0)


def test_a_model_that_would_be_late_gives_way_to_a_span(library: Index, llm: LLM) -> None:
    question = Question(BUILT, "library", "generated", deadline_ms=0.001)
    _, answer = ask(QaPipeline(library, llm), question)
    assert (answer.text, answer.how) == ("1874", "extractive")
    assert (answer.shortened, answer.left_out) == (True, ("model",))


def test_an_answer_neither_repeats_the_question_nor_leaves_its_language() -> None:
    evidence = gather("What is the lamp of Arden?", [Passage("a", "The lamp of Arden is a lens of glass.")])
    span = extract(evidence)

    def written(*pieces: str, evidence: Evidence = evidence) -> Answer:
        composing = Composing(evidence, [], ["The lamp of Arden is a lens of glass."], instead=span)
        shown = "".join(composing.push(piece) for piece in pieces)
        rest, answer = composing.end()
        assert (shown + rest).strip() == answer.text
        return answer

    for empty in (("What is", " the lamp of", " Arden?"), ("The lamp of Arden.",), ("这是", "灯。")):
        assert written(*empty) == span
    assert written("The lamp", " of Arden", " is a lens.").how == "generated"
    assert not written("Not found.").found
    chinese = gather("灯塔的灯是什么？", [Passage("a", "灯塔的灯是玻璃透镜。")])
    assert written("It is a lens.", evidence=chinese) == span
    assert written("玻璃", "透镜", evidence=chinese).how == "generated"


def test_a_model_drafts_from_the_passages_that_were_found(library: Index, llm: LLM) -> None:
    before = {source.name: source.drafts for source in llm.drafts}
    asked = Question("Why was the lamp replaced?", "library", "generated", deadline_ms=20_000, max_tokens=20)
    seen: list[Request] = []
    submit = llm.loop.submit

    def submitting(*args: Any) -> Request:
        seen.append(submit(*args))
        return seen[-1]

    llm.loop.submit = submitting  # type: ignore[method-assign]
    try:
        ask(QaPipeline(library, llm), asked)
    finally:
        del llm.loop.submit
    assert "passages" in before
    (request,) = seen
    prompt = llm.tokenizer.decode(request.prompt, skip_special=False)
    assert request.passages
    assert all(llm.tokenizer.decode(passage) in prompt for passage in request.passages)


def test_answers_are_kept_until_the_index_changes(tmp_path: Path) -> None:
    with open_library(tmp_path) as index:
        desk = QaPipeline(index, cache=AnswerCache(), model_key="m")
        _, first = ask(desk, Question(BUILT, "library"))
        _, again = ask(desk, Question(BUILT, "library"))
        assert (first.cache, again.cache) == ("miss", "hit")
        assert again.took_ms < 200
        assert replace(again, cache="miss", took_ms=0) == replace(first, took_ms=0)
        assert ask(desk, Question(BUILT, "library", namespace="other"))[1].cache == "miss"
        index.add([Document("new", "The lighthouse was built in 1999, some say.")])
        assert ask(desk, Question(BUILT, "library"))[1].cache == "miss"


def test_the_prompt_stays_within_its_budget() -> None:
    text = " ".join(f"Sentence {n} speaks of lighthouses and lamps." for n in range(100))
    evidence = gather("What speaks of lighthouses and lamps?", [Passage("a", text)])
    for budget in (10, 100, 200, 10_000):
        composing = compose(evidence, lambda t: len(t.split()), budget)
        assert composing is not None
        size = sum(len(message["content"].split()) for message in composing.messages)
        assert size <= max(budget, 96) + 10
        assert size <= 400


def test_what_a_model_writes_is_checked() -> None:
    evidence = Evidence("Who?", (Passage("a", "Clara Voss built it."),), strength=1.0)

    def written(text: str) -> Answer:
        composing = Composing(evidence, [], ["Clara Voss built it."])
        shown = composing.push(text)
        rest, answer = composing.end()
        assert (shown + rest).strip() == answer.text
        return answer

    good = written("Clara Voss built it [1][3].")
    assert (good.text, good.supported, good.dropped) == ("Clara Voss built it. [1]", True, (3,))
    assert good.citations[0].quote == "Clara Voss built it."
    bad = written("Peter Hallam painted it.")
    assert (bad.supported, bad.citations, bad.found) == (False, (), True)
    assert not written("Not found.").found
    assert not written("").found


def test_a_models_refusal_does_not_count_against_strong_evidence() -> None:
    evidence = Evidence("Who?", (Passage("a", "Clara Voss built it."),), strength=1.0)
    span = extract(evidence)

    def written(*pieces: str) -> tuple[str, Answer]:
        composing = Composing(evidence, [], ["Clara Voss built it."], otherwise=span)
        shown = "".join(composing.push(piece) for piece in pieces)
        rest, answer = composing.end()
        return shown + rest, answer

    for refusal in (("Not", " found."), ("未找到",), ("  not found in the passages",), ()):
        assert written(*refusal) == (span.text, span)
    shown, answer = written("No", "body but Clara Voss built it.")
    assert answer.how == "generated"
    assert shown.startswith("Nobody but Clara Voss")


def test_questions_are_checked_and_weak_evidence_is_not_composed() -> None:
    for wrong in ("", "  ", "x" * 5000, "\ud800", 7, None):
        with pytest.raises(RequestError):
            checked_question(wrong)
    weak = gather("Who?", [Passage("a", "nothing of the kind")])
    assert weak.is_weak
    assert not extract(weak).found
    assert not extract(look_up_empty()).found


def look_up_empty() -> Evidence:
    return gather("Who built it?", [])


def test_evidence_knows_its_index(library: Index) -> None:
    evidence = look_up(library, Question(BUILT, "library"))
    assert (evidence.index, evidence.version) == ("library", library.version)
    assert evidence.strength > 0.5
