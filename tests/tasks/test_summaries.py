"""Summaries: places in the text, lengths, repetition, support of written sentences, rows of files."""

from __future__ import annotations

import csv
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miaotui.cli import main
from miaotui.errors import FieldError
from miaotui.tasks import SummaryLength, summarize
from miaotui.tasks.summaries.abstractive import written_summary
from miaotui.tasks.summaries.extractive import extract_summary
from miaotui.tasks.summaries.result import count_words, reading_seconds
from miaotui.tasks.summaries.support import support_of
from miaotui.tasks.summaries.units import units_of
from miaotui.tasks.writing.steps import WrittenAnswer

NEWS = (
    "The city council approved a new tram line on Monday. The tram line will connect the harbour with the university. "
    "Councillors debated for six hours. The new tram line costs 80 million euros and opens in 2031. "
    "It rained all day. The university welcomed the tram line, because 12,000 students live near the harbour."
)
ABSTRACT = "目的 探讨补肾活血汤治疗老年高血压的临床疗效。方法 将120例患者随机分为两组。结果 治疗组疗效明显改善。"


def test_parts_are_places_of_the_text_in_its_order() -> None:
    (found,) = summarize(NEWS, sentences=2)
    assert [NEWS[part.start : part.end] for part in found.parts] == [part.text for part in found.parts]
    assert found.parts[0].start < found.parts[1].start
    assert found.text == " ".join(part.text for part in found.parts)
    assert all("tram line" in part.text for part in found.parts)
    assert all(0 < part.score < 1 for part in found.parts)


def test_a_length_holds_in_words_and_seconds() -> None:
    for words in (10, 20, 40):
        (found,) = summarize(NEWS, words=words)
        assert found.text is not None
        assert count_words(found.text) <= words
    (found,) = summarize(NEWS, seconds=6)
    assert found.text is not None
    assert reading_seconds(found.text) <= 6
    (found,) = summarize(NEWS, words=1)  # no sentence is so short: one is given all the same
    assert len(found.parts) == 1


def test_nothing_is_said_twice() -> None:
    (found,) = summarize(NEWS + " " + NEWS, sentences=4)
    texts = [part.text for part in found.parts]
    assert len(set(texts)) == len(texts)


def test_a_clause_is_something_like_a_title() -> None:
    (found,) = summarize(ABSTRACT, unit="clause")
    assert found.text == "补肾活血汤治疗老年高血压的临床疗效"


def test_lines_that_are_only_wrapped_are_one_sentence() -> None:
    wrapped = NEWS.replace("connect the harbour", "connect the\nharbour").replace("because 12,000", "because\n12,000")
    assert [unit.text.replace("\n", " ") for unit in units_of(wrapped)] == [unit.text for unit in units_of(NEWS)]


def test_wrong_texts_have_errors_of_their_own() -> None:
    found = summarize(["", 7, "!!! ???", NEWS])  # type: ignore[list-item]
    assert [each.error for each in found] == [
        "texts[0]: must not be empty",
        "texts[1]: must be a text, not int",
        "texts[2]: has no words to summarise",
        None,
    ]
    with pytest.raises(FieldError, match="words: must be a number above 0"):
        summarize(NEWS, words=0)
    late = summarize([NEWS, NEWS], deadline_ms=1e-6)
    assert all(each.error and "no time was left" in each.error for each in late)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from(["the tram", "a cat", "今天天气好", "12.5", ". ", "。", "\n", ", ", "!", "“", "e.g. "]),
        max_size=30,
    )
)
def test_every_text_gives_places_that_hold(pieces: list[str]) -> None:
    text = "".join(pieces)
    for unit in ("sentence", "clause"):
        units = units_of(text, unit)  # type: ignore[arg-type]
        assert all(text[each.start : each.end] == each.text for each in units)
        assert all(one.end <= two.start for one, two in pairwise(units))
        (found,) = summarize([text], unit=unit)  # type: ignore[arg-type]
        assert all(text[part.start : part.end] == part.text for part in found.parts)


def test_support_needs_words_numbers_and_names() -> None:
    assert support_of("The tram line costs 80 million euros.", NEWS).share > 0.9
    assert support_of("The tram line costs 90 million euros.", NEWS).share == 0.0
    assert support_of("The tram line was opened by Berlin.", NEWS).share == 0.0
    assert support_of("Dogs like to eat meat at night.", NEWS).share < 0.3
    found = support_of("It opens in 2031.", NEWS)
    assert "2031" in NEWS[found.start : found.end]


def written(answer: str, text: str = NEWS, **length: int) -> object:
    steps = written_summary(text, SummaryLength(**length), model="tiny")  # type: ignore[arg-type]
    (request,) = next(steps)
    assert text in request.messages[-1]["content"]
    with pytest.raises(StopIteration) as ended:
        steps.send([WrittenAnswer(answer)])
    return ended.value.value


def test_unsupported_sentences_are_dropped() -> None:
    found = written("A tram line will connect the university with the harbour. It was built by Napoleon in 1812.")
    assert found.method == "write"  # type: ignore[attr-defined]
    assert found.text == "A tram line will connect the university with the harbour."  # type: ignore[attr-defined]
    assert found.dropped == ("It was built by Napoleon in 1812.",)  # type: ignore[attr-defined]


def test_where_nothing_is_supported_the_summary_is_extracted() -> None:
    found = written("Cats eat mice.", sentences=1)
    assert found.method == "extract"  # type: ignore[attr-defined]
    assert found.text == extract_summary(NEWS, SummaryLength(sentences=1)).text  # type: ignore[attr-defined]


def test_files_come_back_with_summaries(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "in.csv"
    path.write_text(f'id,text\n1,"{NEWS}"\n2,\n', encoding="utf-8")
    assert main(["summarize", str(path), "--sentences", "1"]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    start, end = map(int, rows[0]["places"].split("-"))
    assert rows[0]["summary"] == NEWS[start:end]
    assert rows[1]["error"] == "line 3: the text is empty"
    assert main(["summarize", str(path), "--model", "x"]) == 1
    assert "--model names the chat model of --write" in capsys.readouterr().err
