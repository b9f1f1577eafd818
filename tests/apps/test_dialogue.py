"""Dialogue state tracking: values found in messages, states over turns, files, and the customer service around them."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from miaotui.apps.conversations import ConversationStore
from miaotui.apps.dialogue import (
    DialogueSchema,
    DialogueState,
    DialogueTracker,
    LabelledTurn,
    SlotSchema,
    load_tracker,
    read_dialogues,
    save_tracker,
)
from miaotui.apps.dialogue.tagger import SpanTagger, TaggedMessage, ValueSpan, tokens_of
from miaotui.apps.dialogue.values import canonical
from miaotui.apps.rules import parse_rules
from miaotui.apps.support import Support
from miaotui.errors import RequestError

CITIES = ("Lyon", "Oslo", "Quito", "Kyoto", "Cairo", "Hanoi", "Lagos", "Turin")
SCHEMA = DialogueSchema(
    (
        SlotSchema("city", "text", "trip"),
        SlotSchema("guests", "number", "trip"),
        SlotSchema("from", "date", "trip"),
        SlotSchema("until", "date", "trip"),
        SlotSchema("garden", "boolean", "trip", cues=("garden",)),
        SlotSchema("meal", "choice", "food", values=("vegan", "halal", "no gluten"), many=True),
    )
)
COUNTS = ("one", "two", "three", "four")


def key(name: str) -> tuple[str, str]:
    return ("food" if name == "meal" else "trip"), name


def dialogues() -> list[list[LabelledTurn]]:
    """Dialogues that say the same things in a few ways."""
    found = []
    for at, city in enumerate(CITIES):
        count, day = COUNTS[at % 4], at + 3
        found.append(
            [
                LabelledTurn(f"I need a room in {city} please.", {key("city"): [city]}),
                LabelledTurn(f"For {count} people.", {key("guests"): [str(at % 4 + 1)]}, (key("guests"),)),
                LabelledTurn(
                    f"From the {day}th of May until May {day + 2}th.",
                    {key("from"): [f"May {day}th"], key("until"): [f"May {day + 2}th"]},
                ),
                LabelledTurn("I want a garden, too.", {key("garden"): ["True"]}),
                LabelledTurn("Does it have a garden?", {}),
                LabelledTurn("Is the food vegan?", {}),
                LabelledTurn("My wife eats vegan food.", {key("meal"): ["vegan"]}),
                LabelledTurn("And I eat halal food.", {key("meal"): ["halal"]}),
                LabelledTurn(f"No, let us go to {CITIES[at - 1]} instead.", {key("city"): [CITIES[at - 1]]}),
                LabelledTurn("Thank you, that is all.", {}),
            ]
        )
    return found


@pytest.fixture(scope="module")
def tracker() -> DialogueTracker:
    return DialogueTracker.fit(SCHEMA, dialogues())


def test_values_are_kept_over_turns_and_the_newest_counts(tracker: DialogueTracker) -> None:
    state = DialogueState()
    for message in ("I need a room in Lima please.", "From the 9th of May until May 12th.", "Thank you, that is all."):
        state = tracker.update(state, message)
    state = tracker.update(state, "For three people.", [key("guests")])
    assert state.values[key("city")] == ("Lima",)
    assert canonical("date", state.values[key("from")][0]) == canonical("date", "May 9th")
    assert canonical("date", state.values[key("until")][0]) == canonical("date", "12th of May")
    assert state.values[key("guests")] == ("3",)
    state = tracker.update(state, "No, let us go to Perth instead.")
    assert state.values[key("city")] == ("Perth",)


def test_a_wish_is_a_value_and_a_question_is_none(tracker: DialogueTracker) -> None:
    wish = tracker.update(DialogueState(), "I want a garden, too.")
    assert wish.values[key("garden")] == ("true",)
    assert key("garden") not in tracker.update(DialogueState(), "Does it have a garden?").values


def test_a_slot_of_many_values_gathers_them(tracker: DialogueTracker) -> None:
    state = tracker.update(DialogueState(), "My wife eats vegan food.")
    state = tracker.update(state, "And I eat halal food.")
    assert state.values[key("meal")] == ("vegan", "halal")
    assert state.focus == "food"


def test_a_value_comes_with_its_place_in_the_message(tracker: DialogueTracker) -> None:
    message = "I need a room in Lima please."
    (found,) = tracker.found(message)
    assert message[found.start : found.end] == found.value == "Lima"


def test_learning_twice_gives_the_same_tracker(tracker: DialogueTracker) -> None:
    again = DialogueTracker.fit(SCHEMA, dialogues())
    assert again.tagger.names == tracker.tagger.names
    assert np.array_equal(again.tagger.weights, tracker.tagger.weights)


def test_a_tracker_reads_back_as_it_was_written(tracker: DialogueTracker, tmp_path: Path) -> None:
    path = tmp_path / "trips.tracker"
    save_tracker(tracker, path)
    again = load_tracker(path)
    for dialogue in dialogues():
        for turn in dialogue:
            assert again.found(turn.message, turn.asked) == tracker.found(turn.message, turn.asked)
    assert [each.name for each in tmp_path.iterdir()] == ["trips.tracker"]


@pytest.mark.parametrize("cut", [0, 10, 200, -40])
def test_a_broken_file_is_no_tracker(tracker: DialogueTracker, tmp_path: Path, cut: int) -> None:
    path = tmp_path / "broken"
    save_tracker(tracker, path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(RequestError, match="no tracker"):
        load_tracker(path)


def test_a_file_with_python_objects_is_no_tracker(tmp_path: Path) -> None:
    path = tmp_path / "objects.npz"
    np.savez(path, about=np.array([{"a": 1}], dtype=object), weights=np.zeros(1, np.float32))
    with pytest.raises(RequestError, match="no tracker"):
        load_tracker(path)


def test_dialogues_of_a_file_are_learned_from(tmp_path: Path) -> None:
    path = tmp_path / "dialogues.json"
    turns = [
        {
            "message": turn.message,
            "asked": [f"{d}/{n}" for d, n in turn.asked],
            "values": {f"{d}/{n}": list(v) for (d, n), v in turn.values.items()},
        }
        for turn in dialogues()[0]
    ]
    path.write_text(json.dumps({"slots": SCHEMA.to_json(), "dialogues": [turns]}), encoding="utf-8")
    schema, found = read_dialogues(path)
    assert schema == SCHEMA
    assert [turn.message for turn in found[0]] == [turn.message for turn in dialogues()[0]]
    assert found[0][1].asked == (key("guests"),)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"slots": []}, "1 to 256 slots"),
        ({"slots": [{"name": "a"}, {"name": "a"}]}, "there twice"),
        ({"slots": [{"name": "a", "kind": "colour"}]}, "kind must be one of"),
        ({"slots": [{"name": "a", "kind": "boolean"}]}, "needs cues"),
        ({"slots": [{"name": "a", "size": 3}]}, "unknown field 'size'"),
        ({"dialogues": [[{"text": "hello"}]]}, r"dialogues\[0\]\[0\] must be an object with a message"),
        ({"dialogues": [[{"message": "x", "values": {"b": "y"}}]]}, "no slot 'b'"),
        ({"dialogues": [[{"message": "x", "values": {"a": 3}}]]}, "the value of 'a'"),
        ({"dialogues": []}, "no turns to learn from"),
    ],
)
def test_a_fault_in_a_file_of_dialogues_is_named(tmp_path: Path, change: dict[str, object], said: str) -> None:
    path = tmp_path / "dialogues.json"
    value = {"slots": [{"name": "a"}], "dialogues": [[{"message": "hello"}]]} | change
    path.write_text(json.dumps(value), encoding="utf-8")
    with pytest.raises(RequestError, match=said):
        DialogueTracker.fit(*read_dialogues(path))


@pytest.mark.parametrize(
    ("kind", "one", "other"),
    [
        ("number", "for two people", "2"),
        ("number", "我们三个人", "3"),
        ("range", "300元到400元", "300-400元"),
        ("range", "4.5分的以上", "4.5分以上"),
        ("range", "两个小时", "2小时"),
        ("date", "the 8th of March", "March 8"),
        ("date", "March eighth", "8th of March"),
        ("text", "  Oslo. ", "oslo"),
    ],
)
def test_wordings_of_a_value_have_one_form(kind: str, one: str, other: str) -> None:
    assert canonical(kind, one) == canonical(kind, other)  # type: ignore[arg-type]


@example("A\u00b4", "range")
@given(st.text(max_size=40), st.sampled_from(["text", "number", "date", "range", "choice"]))
def test_the_form_of_a_form_is_itself(text: str, kind: str) -> None:
    once = canonical(kind, text)  # type: ignore[arg-type]
    assert canonical(kind, once) == once  # type: ignore[arg-type]


@settings(max_examples=60)
@given(st.text(max_size=60))
def test_any_message_is_taken_and_spans_lie_within_it(text: str) -> None:
    tagger = _SMALL
    for token in tokens_of(text):
        assert text[token.start : token.end].casefold() == token.text
    places = [(span.start, span.end) for span in tagger.tag(text, ("asked=",))]
    assert all(0 <= start < end <= len(text) for start, end in places)
    assert all(before[1] <= after[0] for before, after in pairwise(places))


_SMALL = SpanTagger.fit(
    [TaggedMessage(f"go to {city}", ("asked=",), (ValueSpan("city", 6, 6 + len(city)),)) for city in CITIES], rounds=3
)


def test_the_customer_service_does_not_ask_for_what_was_said(tracker: DialogueTracker) -> None:
    rules = parse_rules(
        {
            "slots": {
                "city": {"kind": "text", "ask": "Which city?"},
                "guests": {"kind": "number", "ask": "How many guests?"},
            },
            "rules": [
                {"when": {"contains": ["room", "people"]}, "need": ["city", "guests"], "say": "{guests} in {city}"}
            ],
        }
    )
    service = Support(ConversationStore(), rules=rules, tracker=tracker)
    conversation, _ = service.begin()
    asked = service.say(conversation.id, "I need a room in Lima please.")
    assert (asked.how, asked.text) == ("slot", "How many guests?")
    told = service.say(conversation.id, "For two people.")
    assert (told.how, told.text) == ("rule", "2 in Lima")
