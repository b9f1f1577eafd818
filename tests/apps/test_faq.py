"""Answered questions: reading the file, and finding the one that is meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from miaotui.apps.faq import Faq, FaqEntry, features, read_faq
from miaotui.errors import RequestError

ENTRIES = (
    FaqEntry(("How do I reset my password?", "I forgot my password"), "Use the link on the log-in page."),
    FaqEntry(("Where is my parcel?", "How can I track my order?"), "Open Orders and choose Track."),
    FaqEntry(("Which payment methods do you accept?",), "Cards and bank transfer."),
    FaqEntry(("怎么修改收货地址？", "收货地址填错了"), "在订单页修改。"),
    FaqEntry(("多久可以退款？",), "三个工作日。"),
)


@pytest.mark.parametrize(
    ("message", "answer"),
    [
        ("how can i reset the password", ENTRIES[0].answer),
        ("i forgot my pasword", ENTRIES[0].answer),
        ("track my order please", ENTRIES[1].answer),
        ("我想修改一下收货地址", ENTRIES[3].answer),
        ("退款要多久", ENTRIES[4].answer),
    ],
)
def test_the_entry_that_is_meant_is_found(message: str, answer: str) -> None:
    match = Faq(ENTRIES).match(message)
    assert match is not None
    assert match.entry.answer == answer
    assert 0 < match.score <= 1


@pytest.mark.parametrize("message", ["Do you sell penguins?", "今天天气怎么样", "?!", ""])
def test_anything_else_is_not(message: str) -> None:
    assert Faq(ENTRIES).match(message) is None


def test_the_threshold_grows_with_the_likeness_of_entries() -> None:
    alike = [FaqEntry((f"How do I change my card in country {c}?",), c) for c in "abcdefgh"]
    faq = Faq(alike)
    assert faq.threshold > Faq(ENTRIES).threshold
    assert faq.match("How do I change my card?") is None


def test_files_of_three_forms(tmp_path: Path) -> None:
    csv = tmp_path / "faq.csv"
    csv.write_text('question,answer\n"Where, exactly?",Here\n', encoding="utf-8-sig")
    german = tmp_path / "german.csv"
    german.write_bytes('question;answer\r\n"Wo; genau?";"Hier, in\r\nKöln"\r\n'.encode("cp1252"))
    assert read_faq(german) == [FaqEntry(("Wo; genau?",), "Hier, in\nKöln")]
    lines = tmp_path / "faq.jsonl"
    lines.write_text('{"questions": ["a", "b"], "answer": "c"}\n\n', encoding="utf-8")
    yaml = tmp_path / "faq.yaml"
    yaml.write_text("- question: 在哪？\n  answer: 这里\n", encoding="utf-8")
    assert read_faq(csv) == [FaqEntry(("Where, exactly?",), "Here")]
    assert read_faq(lines) == [FaqEntry(("a", "b"), "c")]
    assert read_faq(yaml) == [FaqEntry(("在哪？",), "这里")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("faq.txt", "x"),
        ("faq.csv", ""),
        ("faq.csv", "a,b\n1,2\n"),
        ("faq.jsonl", "{"),
        ("faq.jsonl", '{"question": 1, "answer": "a"}'),
        ("faq.jsonl", '{"question": "a"}'),
        ("faq.jsonl", '{"question": " ", "answer": "a"}'),
        ("faq.yaml", "a: [1"),
        ("faq.yaml", "a: b"),
        ("faq.yaml", "- &a {question: q, answer: a}\n- *a"),
        ("faq.yaml", "- !!python/object/apply:os.system [ls]"),
        ("faq.yaml", "[" * 100),
    ],
)
def test_bad_files_are_one_clear_error(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RequestError, match="faq"):
        read_faq(path)


def test_other_bad_files(tmp_path: Path) -> None:
    path = tmp_path / "faq.jsonl"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RequestError, match="UTF-8"):
        read_faq(path)
    with pytest.raises(RequestError):
        read_faq(tmp_path / "absent.csv")
    with pytest.raises(RequestError):
        Faq([])


def test_features_are_words_and_parts() -> None:
    assert {"card", "<ca", "card>"[-3:], "退", "退款"} <= set(features("Card 退款"))
