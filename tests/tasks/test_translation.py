"""Translations: markup kept, languages, loops and echoes caught and asked for again, glossaries; rows of files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miaotui.cli.tasks.translate import read_glossary
from miaotui.errors import FieldError, RequestError
from miaotui.tasks import Translation, TranslationOptions
from miaotui.tasks.translation.translator import ATTEMPTS, translation_steps
from miaotui.tasks.writing.steps import WriteRequest, WrittenAnswer
from miaotui.translation.guards import fault_of, left_words, names_of, repeats
from miaotui.translation.languages import detect, language_code
from miaotui.translation.markup import joined_pieces, pieces_of

HTML = '<p class="a">Good morning, <b>world</b>!</p>\n<script>var x = "no";</script><br/>Tom &amp; Jerry<!-- note -->'
MARKDOWN = (
    "# A title\n\n- first **bold** item\n- [a link](http://a.b/c)\n\n```py\nprint('hello')\n```\n\n"
    "> quoted `code` text\n\n| a cell | other |\n|---|---|\n| one | two |\n"
)
BITS = [
    "<b>",
    "</b>",
    "hello world",
    "你好",
    "\n",
    "`x = 1`",
    "```\n",
    "# ",
    "- ",
    "[a](b)",
    "&amp;",
    "<",
    "> ",
    "**",
    "  ",
]


def translated_upper(text: str, form: str = "text") -> str:
    """The text with every piece that would be translated in upper case."""
    return "".join(piece.text.upper() if piece.translated else piece.text for piece in pieces_of(text, form))  # type: ignore[arg-type]


def test_tags_scripts_and_entities_stay() -> None:
    assert translated_upper(HTML, "html") == (
        '<p class="a">GOOD MORNING, <b>WORLD</b>!</p>\n<script>var x = "no";</script><br/>TOM &amp; JERRY<!-- note -->'
    )


def test_markdown_stays() -> None:
    assert translated_upper(MARKDOWN, "markdown") == (
        "# A TITLE\n\n- FIRST **BOLD** ITEM\n- [A LINK](http://a.b/c)\n\n```py\nprint('hello')\n```\n\n"
        "> QUOTED `code` TEXT\n\n| A CELL | OTHER |\n|---|---|\n| ONE | TWO |\n"
    )


def test_paragraphs_addresses_and_bare_numbers_stay() -> None:
    text = "First line.\n\n  Second https://a.b/c?d=e line.\n12,5 %\n😀😀\n"
    assert translated_upper(text) == "FIRST LINE.\n\n  SECOND https://a.b/c?d=e LINE.\n12,5 %\n😀😀\n"
    long = "This is a sentence of some words. " * 40
    pieces = [piece.text for piece in pieces_of(long, "text") if piece.translated]
    assert len(pieces) > 2
    assert all(len(piece) < 500 and piece.endswith(".") for piece in pieces)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from(BITS) | st.text(max_size=4), max_size=14), st.sampled_from(["text", "html", "markdown"])
)
def test_pieces_are_the_text(bits: list[str], form: Any) -> None:
    text = "".join(bits)
    assert joined_pieces(pieces_of(text, form)) == text


def test_languages() -> None:
    assert detect("今天天气很好，我们去公园。").code == "zh"
    assert detect("今日はいい天気ですね。").code == "ja"
    assert detect("오늘 날씨가 좋네요").code == "ko"
    assert detect("The weather is fine today and we go to the park.").code == "en"
    assert detect("Das Wetter ist heute schön, und wir gehen in den Park.").code == "de"
    assert detect("12345 !!!") == ("en", 0.0)
    assert language_code("Chinese", "target") == language_code("zh-Hans", "target") == "zh"
    with pytest.raises(FieldError, match="target: 'klingon' is no language"):
        language_code("klingon", "target")


@pytest.mark.parametrize(
    ("source", "translation", "pair", "fault"),
    [
        ("Good morning.", "早上好。", "en zh", None),
        ("The river is long.", "这条河很长很长很长很长很长很长很长", "en zh", "repeated itself"),
        ("ha ha ha ha ha ha ha", "哈哈哈哈哈哈哈", "en zh", None),
        ("Good morning to all of you.", "Good morning to all of you.", "en zh", "untranslated"),
        ("今天天气很好", "今天天气很好", "zh en", "untranslated"),
        ("今天天气很好", "The weather 很好 today.", "zh en", "characters that its language"),
        ("IBM GPT-4", "IBM GPT-4", "en zh", None),
        ("Guten Morgen, mein lieber alter Freund", "Guten Morgen, mein lieber alter Freund", "de en", "untranslated"),
        ("Write a poem.", "啊" + "春天来了花儿开了鸟儿叫了河水流了山也青了人也笑了" * 3, "en zh", "far longer"),
        ("Yes.", "  ", "en zh", "wrote nothing"),
    ],
)
def test_faults(source: str, translation: str, pair: str, fault: str | None) -> None:
    found = fault_of(source, translation, *pair.split())
    assert (found is None) if fault is None else (found is not None and fault in found)


def test_repeats_are_counted() -> None:
    assert repeats("") == 0
    assert repeats("one two three") == 1
    assert repeats("go go go stop") == 3
    assert repeats("a b c a b c a b c a b c d") == 4
    assert repeats("lalalalalalalalalala") >= 8


Model = Callable[[WriteRequest], str]


def run(text: str, model: Model, options: TranslationOptions) -> tuple[Translation, list[Sequence[WriteRequest]]]:
    """The translation by a scripted model, and the requests of each round."""
    steps = translation_steps(text, options)
    rounds: list[Sequence[WriteRequest]] = []
    try:
        requests = next(steps)
        while True:
            rounds.append(requests)
            requests = steps.send([WrittenAnswer(model(each), probability=0.5) for each in requests])
    except StopIteration as ended:
        return ended.value, rounds


def last_words(request: WriteRequest) -> str:
    return str(request.messages[-1]["content"])


WORDS = {"Good morning,": "早上好，", "world": "世界", "Tom": "汤姆", "Jerry": "杰里"}


def test_html_is_translated_between_its_tags() -> None:
    found, rounds = run(HTML, lambda each: WORDS[last_words(each)], TranslationOptions("zh", form="html"))
    assert found.text is not None
    assert found.text.startswith('<p class="a">早上好， <b>世界</b>!</p>')
    assert found.text.endswith("汤姆 &amp; 杰里<!-- note -->")
    assert (found.source, found.pieces, found.retried, len(rounds)) == ("en", 4, 0, 1)
    assert found.probability == pytest.approx(0.5)
    risky, _ = run("<i>less than</i>", lambda each: "小于 <b> & 大于", TranslationOptions("zh", form="html"))
    assert risky.text == "<i>小于 &lt;b&gt; &amp; 大于</i>"


def test_a_fault_is_asked_again_in_another_way() -> None:
    def model(request: WriteRequest) -> str:
        return (
            "今天 " * 20
            if request.params.repetition_penalty == 1.0 and not request.params.temperature
            else "今天很好。"
        )

    found, rounds = run("Today is fine.", model, TranslationOptions("zh"))
    assert found.text == "今天很好。"
    assert found.retried == 1
    assert len(rounds) == 2


def test_a_text_that_stays_faulty_has_an_error() -> None:
    found, rounds = run("Today is a fine day.", last_words, TranslationOptions("zh"))
    assert found.text is None
    assert found.error is not None
    assert "gave the text back untranslated" in found.error
    assert len(rounds) == ATTEMPTS


def test_words_of_the_source_are_asked_for_once_more() -> None:
    text, mixed, whole = "The captain of Ajax spoke.", "Ajax的captain讲话了。", "Ajax的队长讲话了。"
    found, rounds = run(text, lambda each: whole, TranslationOptions("zh"))
    assert (found.retried, len(rounds)) == (0, 1)
    answers = iter([mixed, whole])
    found, rounds = run(text, lambda each: next(answers), TranslationOptions("zh"))
    assert (found.text, found.retried, len(rounds)) == (whole, 1, 2)
    assert rounds[1][0].grammar is not None
    for worse in ("", "好" * 60):  # a second answer with a fault leaves the first one
        answers = iter([mixed, worse])
        found, rounds = run(text, lambda each, answers=answers: next(answers), TranslationOptions("zh"))
        assert (found.text, found.error, len(rounds)) == (mixed, None, 2)


@pytest.mark.parametrize(
    ("source", "translation", "target", "left"),
    [
        ("the captain said", "captain说", "zh", ["captain"]),
        ("the Captain said", "Captain说", "zh", []),
        ("he sent it to a.b@mail.com", "他发到a.b@mail.com", "zh", []),
        ("the captain said", "le captain a dit", "fr", []),
        ("the captain said", "他用vim写", "zh", []),
    ],
)
def test_words_that_are_left(source: str, translation: str, target: str, left: list[str]) -> None:
    assert left_words(source, translation, target) == left


def test_names_that_may_stay() -> None:
    assert names_of("The captain of Ajax and his GPT4 fans") == ["Ajax", "GPT4"]
    assert names_of("New York is large") == ["New", "York"]
    assert names_of("IBM sells") == ["IBM"]
    assert names_of("") == []


def test_a_glossary_is_asked_for_and_told_where_missed() -> None:
    options = TranslationOptions("zh", glossary={"tram": "有轨电车", "bus": "公交车"})
    found, rounds = run("The tram is late.", lambda each: "电车晚点了。", options)
    assert "tram = 有轨电车" in rounds[0][0].messages[0]["content"]
    assert "bus" not in rounds[0][0].messages[0]["content"]
    assert rounds[1][0].grammar is not None
    assert found.missed_terms == ("tram",)
    found, _ = run("The tram is late.", lambda each: "有轨电车晚点了。", options)
    assert found.missed_terms == ()


def test_alternatives_are_sampled() -> None:
    seeds = iter("abcd")
    found, _ = run("Good day.", lambda each: "你好" + next(seeds), TranslationOptions("zh", alternatives=2))
    assert found.alternatives == ("你好b", "你好c")


def test_texts_that_need_no_translation_stay() -> None:
    for text, options in (
        ("😀 123", TranslationOptions("zh")),
        ("Good day to you all.", TranslationOptions("en")),
        ("<br/>", TranslationOptions("zh", form="html")),
    ):
        found, rounds = run(text, last_words, options)
        assert (found.text, rounds, found.error) == (text, [], None)
    assert run("", last_words, TranslationOptions("zh"))[0].error == "texts[0]: must not be empty"
    assert "must be a text" in str(run(7, last_words, TranslationOptions("zh"))[0].error)  # type: ignore[arg-type]


def test_wrong_options_are_named(tmp_path: Path) -> None:
    for wrong in ({"target": "xx"}, {"target": "zh", "form": "pdf"}, {"target": "zh", "glossary": {"": "x"}}):
        with pytest.raises(FieldError):
            TranslationOptions(**wrong)  # type: ignore[arg-type]
    path = tmp_path / "terms.csv"
    path.write_text("tram,有轨电车\n\nbus,公交车\n", encoding="utf-8")
    assert read_glossary(path) == {"tram": "有轨电车", "bus": "公交车"}
    path.write_bytes("有轨电车,tram,\r\n公交车,bus,\r\n".encode("gb18030"))
    assert read_glossary(path) == {"有轨电车": "tram", "公交车": "bus"}
    path.write_text("tram\n", encoding="utf-8")
    with pytest.raises(RequestError, match="line 1: must be a term and its translation"):
        read_glossary(path)
