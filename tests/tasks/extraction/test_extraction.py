"""Extraction: numbers, dates and amounts in standard form, values bound to the text, keywords, rows."""

from __future__ import annotations

import csv
import datetime as dt
import json
import math
from collections import defaultdict
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from extraction_cases import CASES, SCHEMAS
from hypothesis import given, settings
from hypothesis import strategies as st

import miaotui
from miaotui.cli import main
from miaotui.errors import FieldError
from miaotui.tasks import DateReading, Extraction, ExtractionOptions, extract
from miaotui.tasks.extraction.amounts import find_amounts, find_numbers
from miaotui.tasks.extraction.calls import asked_fields
from miaotui.tasks.extraction.dates import find_dates, find_times
from miaotui.tasks.extraction.extractor import extraction_steps
from miaotui.tasks.extraction.numerals import read_han, read_number
from miaotui.tasks.writing.steps import WrittenAnswer
from tiny_models import make_tiny_folder

ORDER = {
    "type": "object",
    "properties": {
        "customer": {"type": "string"},
        "total": {"type": "string", "format": "amount"},
        "date": {"type": "string", "format": "date"},
        "paid": {"enum": ["cash", "card"]},
        "items": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["customer"],
}
TEXT = "Ada Byron bought a lamp and a desk for €1.250,50 on 4 May 2024 and paid by card."


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("三千五百", 3500), ("三千五", 3500), ("一百二十万", 1_200_000), ("二〇二五", 2025), ("十二", 12),
        ("两百零三", 203), ("十百", None),
        ("三亿四千万", 340_000_000), ("五万六", 56_000), ("万", None),
    ],
)  # fmt: skip
def test_chinese_numerals(text: str, number: int | None) -> None:
    assert read_han(text) == number


def test_numbers_with_separators() -> None:
    assert read_number("1,250.00") == Decimal("1250.00")
    assert read_number("1.250,50") == Decimal("1250.50")
    assert read_number("12,000") == Decimal(12000)
    assert read_number("3,5") == Decimal("3.5")
    assert read_number("1,2,3") is None


@given(st.integers(1, 99_999_999))
def test_numerals_are_read_as_they_are_written(number: int) -> None:
    assert read_han(han(number)) == number
    assert read_number(f"{number:,}") == number


def han(number: int) -> str:
    """A number below 100,000,000 in Chinese numerals."""
    if number >= 10_000:
        rest = number % 10_000
        gap = "零" if 0 < rest < 1000 else ""
        return han(number // 10_000) + "万" + (gap + han(rest) if rest else "")
    text, missing = "", False
    for place, unit in ((1000, "千"), (100, "百"), (10, "十"), (1, "")):
        digit = number // place % 10
        if digit:
            text += ("零" if missing and text else "") + "零一二三四五六七八九"[digit] + unit
        missing = not digit
    return text


def test_dates_in_iso_form() -> None:
    text = "Due 5 March 2025, March 7th, 2025, 03/04/2025, 31/12/2024, 2025-1-9, tomorrow, 30 February 2024, June 2024"
    assert [each.value for each in find_dates(text, DateReading(dt.date(2025, 2, 28)))] == [
        "2025-03-05", "2025-03-07", None, "2024-12-31", "2025-01-09", "2025-03-01", None, "2024-06",
    ]  # fmt: skip
    assert [each.value for each in find_dates("on 03/04/2025", DateReading(order="dmy"))] == ["2025-04-03"]
    zh = "二〇二五年三月五日下午三点半，明天，10月1日上午9点20分"
    assert [each.value for each in find_dates(zh, DateReading(dt.date(2024, 12, 31)))] == [
        "2025-03-05", "2025-01-01", "2024-10-01",
    ]  # fmt: skip
    assert [each.value for each in find_dates("tomorrow, 明天")] == [None, None]
    assert [each.value for each in find_times(zh)] == ["15:30", "09:20"]
    assert [each.value for each in find_times("3 pm, 12 a.m., 14:30, 25:00")] == ["15:00", "00:00", "14:30", None]


def test_amounts_have_a_decimal_and_a_currency() -> None:
    text = "$1,250.00 or EUR 3.5 million, 1.250,50 €, 30 dollars, £5k; 3.5万元，三千五百元，￥99，2亿美元"
    assert [(each.amount, each.currency) for each in find_amounts(text)] == [
        ("1250.00", "USD"), ("3500000", "EUR"), ("1250.50", "EUR"), ("30", "USD"), ("5000", "GBP"),
        ("35000", "CNY"), ("3500", "CNY"), ("99", "CNY"), ("200000000", "USD"),
    ]  # fmt: skip
    assert find_amounts("¥99 only")[0].currency == "JPY"
    assert [each.amount for each in find_numbers("12 chairs, 1,500 people, 三十人, 订了7把, -3")] == [
        "12",
        "1500",
        "30",
        "7",
        "-3",
    ]


@settings(max_examples=100, deadline=None)
@given(st.text(st.sampled_from("0123456789.,-/:年月日点半上午$€元万三十 apmMay"), max_size=30))
def test_finders_take_any_text(text: str) -> None:
    for found in (find_dates(text), find_times(text), find_amounts(text), find_numbers(text)):
        assert all(0 <= each.start < each.end <= len(text) for each in found)


def run(text: str, answer: str, probability: float = 1.0, **options: Any) -> Extraction:
    """The extraction from a scripted answer, each of whose bytes is a token."""
    steps = extraction_steps(text, ExtractionOptions(asked_fields(ORDER), **options))
    (request,) = next(steps)
    assert request.grammar is not None
    logprobs = tuple((end + 1, math.log(probability)) for end in range(len(answer.encode())))
    with pytest.raises(StopIteration) as ended:
        steps.send([WrittenAnswer(answer, logprobs=logprobs)])
    found: Extraction = ended.value.value
    return found


ANSWER = (
    '{"customer": "Ada Byron", "total": "€1.250,50", "date": "4 May 2024", "paid": "card", '
    '"items": ["lamp", "desk", "lamp"]}'
)


def test_values_have_places_and_standard_forms() -> None:
    found = run(TEXT, ANSWER, 0.5)
    assert found.values == {
        "customer": "Ada Byron",
        "total": {"amount": "1250.50", "currency": "EUR"},
        "date": "2024-05-04",
        "paid": "card",
        "items": ["lamp", "desk"],
    }
    customer = found.fields["customer"]
    assert not isinstance(customer, tuple)
    assert customer is not None
    assert TEXT[customer.start : customer.end] == "Ada Byron"
    assert customer.probability == pytest.approx(0.5)
    assert found.to_json()["values"] == found.values


def test_an_unsure_value_is_left_out_and_named() -> None:
    found = run(TEXT, ANSWER, 0.3, threshold=0.5)
    assert list(found.values.values()) == [None, None, None, None, []]
    assert found.abstained == ("customer", "total", "date", "paid", "items")


def test_an_answer_that_is_cut_gives_what_it_has() -> None:
    found = run(TEXT, ANSWER[:45])
    assert found.values["customer"] == "Ada Byron"
    assert found.values["date"] is None


def test_keywords_need_no_model() -> None:
    (found,) = extract("The tram line costs money. The tram line opens soon. Cats sleep.", keywords=2)
    assert found.keywords[0].text == "tram line"
    assert found.keywords[0].score == 1.0
    (found,) = extract("补肾活血汤治疗老年高血压患者。高血压患者随机分组。", keywords=1)
    assert "患者" in found.keywords[0].text
    (empty,) = extract([""], keywords=2)
    assert empty.error == "texts[0]: must not be empty"


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"type": "object", "properties": {}}, "1 to 32 properties"),
        ({"type": "object", "properties": {"a": {"type": "object"}}}, "must be string, number"),
        ({"type": "object", "properties": {"a": {"type": "string", "format": "x"}}}, "must be one of date"),
        ({"type": "object", "properties": {"a": {"enum": [1]}}}, "1 to 256 texts"),
        ({"type": "object", "properties": {'a"': {"type": "string"}}}, "no name of a field"),
        (["a", "a"], "different names"),
    ],
)
def test_wrong_schemas_are_named(wanted: Any, message: str) -> None:
    with pytest.raises(FieldError, match=message):
        asked_fields(wanted)
    with pytest.raises(FieldError, match="give a schema, entities, or a number of keywords"):
        ExtractionOptions()


def test_a_model_of_noise_cannot_leave_the_text(tmp_path: Path) -> None:
    schema = json.loads(json.dumps(ORDER))
    schema["required"] = list(schema["properties"])
    texts = ["the cat sat on the mat for $3 on 4 May 2024 by card", 'he "sat" on\\it', ""]
    with miaotui.load(make_tiny_folder(tmp_path, "llama", vocab_size=4096), backend="reference") as llm:
        found = extract(texts, schema, verbatim=True, model=llm)
        assert "must not be empty" in str(found[2].error)
        for text, each in zip(texts[:2], found, strict=False):
            if each.error is not None:
                continue
            for value in each.fields.values():
                for one in value if isinstance(value, tuple) else () if value is None else (value,):
                    assert text[one.start : one.end] == one.text


def test_files_come_back_with_keywords(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "in.txt"
    path.write_text("The tram line costs money.\n\nA tram.\n", encoding="utf-8")
    assert main(["extract", str(path), "--keywords", "1"]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert "tram line" in rows[0]["keywords"]
    assert rows[1]["error"] == "line 2: the text is empty"
    assert main(["extract", str(path), "--entities", "a", "--schema", "x"]) == 1
    assert "not both" in capsys.readouterr().err


@pytest.mark.model
@pytest.mark.parametrize("step", [pytest.param(4, marks=pytest.mark.slow), pytest.param(1, marks=pytest.mark.long)])
def test_fields_of_texts_in_both_languages(step: int) -> None:
    right = total = 0
    by_schema = defaultdict(list)
    for case in CASES[::step]:
        by_schema[case.schema].append(case)
    with miaotui.load("qwen2.5-coder-0.5b") as llm:
        for name, cases in by_schema.items():
            found = extract([case.text for case in cases], SCHEMAS[name], verbatim=True, model=llm)
            for case, each in zip(cases, found, strict=True):
                for field, value in case.answer.items():
                    total, right = total + 1, right + (each.values[field] == value)
                    one = each.fields[field]
                    assert one is None or case.text[one.start : one.end] == one.text  # type: ignore[union-attr]
    assert right / total >= 0.85
