"""Generation: checks of requirements, repairs that mend them, and requests for what is missing."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miaotui.errors import FieldError
from miaotui.tasks import Bound, GeneratedText, GenerationOptions, TextRequirements
from miaotui.tasks.generation.calls import continuation_messages, prompt_messages, rewrite_messages
from miaotui.tasks.generation.generator import bound_of, generation_steps, grammar_of
from miaotui.tasks.generation.repairs import repaired
from miaotui.tasks.generation.requirements import STARS, capitals, paragraphs_of
from miaotui.tasks.writing.steps import WriteRequest, WrittenAnswer

PROSE = (
    "The tram line is new, and it is long. It runs from the harbour to the university. Many students use it every day. "
    "The council built it in three years. It cost a lot of money, but people like it. In winter it is warm inside."
)


@pytest.mark.parametrize(
    ("wanted", "good", "bad"),
    [
        ({"words": Bound(2, 3)}, "one two three", "one two three four"),
        ({"sentences": Bound(2)}, "One. Two.", "One."),
        ({"paragraphs": 2, "separator": STARS}, "a\n***\nb", "a\n\nb"),
        ({"paragraphs": 2, "first_words": {2: "well"}}, "a\n\nWell b", "a\n\nb"),
        ({"bullets": 2}, "* a\n* b", "* a\n* b\n- c"),
        ({"sections": ("Part", 2)}, "Part 1\na\nPart 2\nb", "Part 1\na"),
        ({"highlights": 1}, "a *b* c", "a b c"),
        ({"placeholders": 2}, "[name] and [date]", "[name]"),
        ({"include": {"tram": Bound(2)}}, "Tram and tram", "tram and trams"),
        ({"include": {"tram": Bound(0, 1)}}, "tram", "tram tram"),
        ({"avoid": ("bus",)}, "the busy tram", "the Bus"),
        ({"letters": {"z": Bound(2)}}, "Zig zag", "zero"),
        ({"capital_words": Bound(1, 1)}, "a TRAM", "A TRAM"),
        ({"case": "lower"}, "all low, 5", "All low"),
        ({"case": "upper"}, "ALL UP, 5", "All up"),
        ({"without_commas": True}, "a b", "a, b"),
        ({"as_json": True}, '```json\n{"a": 1}\n```', "{a: 1}"),
        ({"choices": ("Yes.", "No.")}, "I say Yes.", "Perhaps."),
        ({"title": True}, "<<A title>>\nb", "A title\nb"),
        ({"begin": "Once"}, "once upon", "upon once"),
        ({"end": "The end."}, "b. The end.", "The end. b"),
        ({"postscript": "P.S."}, "a\n\nP.S. b", "a"),
        ({"quoted": True}, '"a"', '"a'),
        ({"two_answers": True}, "a\n******\nb", "a\n******\na"),
        ({"language": "zh"}, "今天天气很好", "the weather is good today"),
    ],
)
def test_checks(wanted: dict[str, Any], good: str, bad: str) -> None:
    requirements = TextRequirements(**wanted)
    assert requirements.holds(good)
    assert not requirements.holds(bad)


MENDABLE: list[dict[str, Any]] = [
    {"words": Bound(0, 20)},
    {"sentences": Bound(0, 2)},
    {"paragraphs": 3},
    {"paragraphs": 3, "separator": STARS},
    {"paragraphs": 2, "first_words": {2: "however"}},
    {"bullets": 3},
    {"sections": ("SECTION", 3)},
    {"highlights": 3},
    {"placeholders": 4},
    {"avoid": ("tram", "money")},
    {"include": {"it": Bound(0, 2)}},
    {"letters": {"u": Bound(0, 3)}},
    {"capital_words": Bound(4)},
    {"capital_words": Bound(0, 2)},
    {"case": "lower"},
    {"case": "upper"},
    {"without_commas": True},
    {"as_json": True},
    {"choices": ("Yes.", "No.")},
    {"title": True},
    {"begin": "Write about trams."},
    {"end": "Is there anything else?"},
    {"postscript": "P.S."},
    {"quoted": True},
]


@pytest.mark.parametrize("wanted", MENDABLE, ids=str)
def test_repairs_mend_what_needs_no_model(wanted: dict[str, Any]) -> None:
    requirements = TextRequirements(**wanted)
    found = repaired(PROSE, requirements)
    assert requirements.holds(found), found
    assert repaired(found, requirements) == found  # what holds is left alone


def test_a_text_that_needs_nothing_stays() -> None:
    assert repaired(PROSE, TextRequirements()) == PROSE


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(MENDABLE),
    st.lists(st.sampled_from(["Word ", "tram, ", "it. ", "* a\n", "\n\n", "[x] ", "IT! "]), min_size=1),
)
def test_repairs_take_any_text(wanted: dict[str, Any], pieces: list[str]) -> None:
    assert isinstance(repaired("".join(pieces), TextRequirements(**wanted)), str)


Model = Callable[[WriteRequest], str]


def run(model: Model, prompt: str = "Write about the tram.", **wanted: Any) -> tuple[GeneratedText, list[WriteRequest]]:
    """The text by a scripted model, and its requests."""
    steps = generation_steps(prompt, GenerationOptions(TextRequirements(**wanted)))
    asked: list[WriteRequest] = []
    try:
        requests: Sequence[WriteRequest] = next(steps)
        while True:
            asked += requests
            requests = steps.send([WrittenAnswer(model(each)) for each in requests])
    except StopIteration as ended:
        return ended.value, asked


def test_a_text_that_is_too_short_is_continued() -> None:
    found, asked = run(lambda request: "It is long. " * 5, words=Bound(20))
    assert len(asked) == 2
    assert asked[1].begun.startswith("It is long.")
    assert found.unmet == ()
    assert found.raw == "It is long. It is long. It is long. It is long. It is long."


def test_words_that_are_missing_begin_sentences() -> None:
    found, asked = run(lambda request: " is there" if request.begun else "A text.", include={"harbour": Bound(2)})
    assert found.text == "A text. Harbour is there. Harbour is there."
    assert [request.begun[-7:] for request in asked[1:]] == ["Harbour", "Harbour"]


def test_a_second_answer_is_another_one() -> None:
    answers = iter(["One.", "Two."])
    found, _ = run(lambda request: next(answers), two_answers=True)
    assert found.text is not None
    assert [part.strip() for part in found.text.split("******")] == ["One.", "Two."]
    assert found.unmet == ()


def test_what_cannot_be_mended_is_named() -> None:
    found, _ = run(lambda request: "The weather is good today, and I like the park.", language="zh")
    assert found.unmet == ("language",)
    assert run(lambda request: "", prompt="")[0].error == "texts[0]: must not be empty"


def test_requirements_become_grammars() -> None:
    assert grammar_of(TextRequirements()) is None
    assert grammar_of(TextRequirements(words=Bound(3))) is None
    for wanted in ({"without_commas": True}, {"case": "upper"}, {"as_json": True}, {"choices": ("a",)}, {"schema": {}}):
        assert grammar_of(TextRequirements(**wanted)) is not None  # type: ignore[arg-type]
    found, asked = run(lambda request: json.dumps({"a": 1}), schema={"type": "object"})
    assert asked[0].grammar is not None
    assert found.text == '{"a": 1}'


def test_contradictions_are_refused() -> None:
    with pytest.raises(FieldError, match="words: must have bounds in order"):
        TextRequirements(words=Bound(5, 2))
    with pytest.raises(FieldError, match="'tram' is to be used and to be avoided"):
        TextRequirements(include={"Tram": Bound(1)}, avoid=("tram",))
    with pytest.raises(FieldError, match="paragraphs"):
        TextRequirements(paragraphs=0)


def test_conversations() -> None:
    options = GenerationOptions(style="formal", instruction="Be brief.")
    assert prompt_messages("Hi", options)[0]["content"] == "Style: formal. Be brief."
    assert "Style: formal." in rewrite_messages("Hi there", options)[0]["content"]
    assert "风格：formal" in rewrite_messages("你好", options)[0]["content"]
    assert "Continue" in continuation_messages("Hi", options)[0]["content"]
    assert bound_of(3, "less than") == Bound(0, 2)
    assert bound_of(3, "at least").least == 3
    assert capitals("A TRAM is Here") == ["A", "TRAM"]
    assert paragraphs_of("a\n\n\nb\n", "\n\n") == ["a", "b"]
