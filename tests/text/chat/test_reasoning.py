"""Reasoning: a thought is told from the answer, however the text is cut."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from miaotui.text.reasoning import (
    FORMATS,
    HARMONY,
    AnswerPiece,
    ReasoningFormat,
    ReasoningParser,
    ReasoningPiece,
    count_reasoning,
    reasoning_format,
    split_reasoning,
)

THINK = FORMATS[0]


@pytest.mark.parametrize(
    ("text", "is_open", "thought", "answer"),
    [
        ("<think>\nHm.\n</think>\n\nYes.", False, "Hm.", "Yes."),
        ("\n <think>Hm.</think>Yes.\n", False, "Hm.", "Yes.\n"),
        ("Hm.\n</think>\n\nYes.", True, "Hm.", "Yes."),
        ("<think>\n\n</think>\n\nYes.", False, "", "Yes."),
        ("Yes. <think>no thought</think>", False, "", "Yes. <think>no thought</think>"),
        ("<thin air", False, "", "<thin air"),
        ("<think>Hm, </th", False, "Hm, </th", ""),
        ("Hm. ", True, "Hm.", ""),
        ("<think>a</think>b</think>c", False, "a", "b</think>c"),
        (" \n", False, "", " \n"),
        ("", True, "", ""),
    ],
)
def test_splits(text: str, is_open: bool, thought: str, answer: str) -> None:
    assert split_reasoning(text, THINK, is_open) == (thought, answer)


PIECES = st.lists(st.sampled_from(["<think>", "</think>", "<", "/think>", "thi", "nk>", " ", "\n", "ab", "é想", "{}"]))


@given(PIECES, st.booleans(), st.lists(st.integers(1, 5)), st.sampled_from(FORMATS[:1]))
def test_cuts_do_not_matter_and_nothing_is_lost(
    parts: list[str], is_open: bool, cuts: list[int], form: ReasoningFormat
) -> None:
    text = "".join(parts)
    parser, events, at = ReasoningParser(form, is_open), [], 0
    for size in [*cuts, len(text)]:
        events += parser.push(text[at : at + size])
        at += size
    events += parser.finish()
    thought = "".join(e.text for e in events if isinstance(e, ReasoningPiece))
    answer = "".join(e.text for e in events if isinstance(e, AnswerPiece))
    assert (thought, answer) == split_reasoning(text, form, is_open)
    kinds = [isinstance(e, AnswerPiece) for e in events]
    assert kinds == sorted(kinds), "the thought comes first"
    began = not is_open and text.lstrip(" \n").startswith(form.begin)
    ended = (is_open or began) and parser.is_answering
    kept = (form.begin if began else "") + thought + (form.end if ended else "") + answer
    assert "".join(kept.split()) == "".join(text.split())


def test_a_prompt_that_ends_in_a_thought() -> None:
    assert THINK.is_open("<|assistant|>\n<think>\n")
    assert not THINK.is_open("<|assistant|>\n<think>\n\n</think>\n\n")
    assert not THINK.is_open("<|assistant|>\n")


def test_the_format_is_that_of_the_templates() -> None:
    assert reasoning_format({"default": "{{ '<think>\n\n</think>' }}"}) == THINK
    assert reasoning_format({"default": "{{ '[THINK]' }}{{ '[/THINK]' }}"}) == FORMATS[1]
    assert reasoning_format({"default": "{{ messages[0].content }}"}) is None


@pytest.mark.parametrize(
    ("pieces", "is_open", "count"),
    [
        (["<think>", "\n", "Hm", ".", "</think>", "\n\n", "Yes"], False, 5),
        (["Hm", ".", "</", "think>", "Yes"], True, 4),
        (["<think>", "Hm"], False, 2),
        (["Yes", "."], False, 0),
        (["<th", "ink>", "</think>"], False, 3),
    ],
)
def test_tokens_of_the_thought_are_counted(pieces: list[str], is_open: bool, count: int) -> None:
    assert count_reasoning(pieces, THINK, is_open) == count


ANALYSIS, FINAL = "<|channel|>analysis<|message|>", "<|channel|>final<|message|>"
CALL = "<|channel|>commentary to=functions.f <|constrain|>json<|message|>"
HARMONY_THOUGHT = "<|channel|>analysis<|message|>Two and two.<|end|><|start|>assistant<|channel|>final<|message|>Four."


@pytest.mark.parametrize(
    ("text", "thought", "answer"),
    [
        (HARMONY_THOUGHT, "Two and two.", "Four."),
        ("<|channel|>final<|message|>Four.", "", "Four."),
        ("<|channel|>analysis<|message|>Two and", "Two and", ""),
        ("<|channel|>fin", "", "<|channel|>fin"),
        ("Four.", "", "Four."),
        (f"{ANALYSIS}a<|end|><|start|>assistant{ANALYSIS}b<|end|><|start|>assistant{FINAL}c<|return|>", "a\n\nb", "c"),
        (
            "<|channel|>commentary<|message|>Let me look.<|end|><|start|>assistant" + FINAL + "c",
            "",
            "Let me look.\n\nc",
        ),
        (ANALYSIS + "Hm.<|end|><|start|>assistant" + CALL + "{}<|call|>", "Hm.", CALL + "{}"),
        (
            ANALYSIS + "Hm.<|end|><|start|>assistant to=functions.f<|channel|>commentary json<|message|>{}",
            "Hm.",
            CALL + "{}",
        ),
        (" to=functions.f<|channel|>commentary <|constrain|>json<|message|>{}", "", CALL + "{}"),
        (ANALYSIS + "Hm.<|end|><|start|>assistant<|chan", "Hm.", ""),
        ("to=", "", "to="),
        ("total", "", "total"),
    ],
)
def test_channels_of_harmony_are_told_apart_however_they_are_cut(text: str, thought: str, answer: str) -> None:
    assert reasoning_format({"default": "...<|start|>assistant<|channel|>final<|message|>..."}) is HARMONY
    assert split_reasoning(text, HARMONY) == (thought, answer)
    for size in (1, 2, 3, 5, 17):
        parser = HARMONY.parser()
        events = [event for at in range(0, len(text), size) for event in parser.push(text[at : at + size])]
        events += parser.finish()
        assert "".join(event.text for event in events if isinstance(event, ReasoningPiece)) == thought
        assert "".join(event.text for event in events if isinstance(event, AnswerPiece)) == answer


@given(
    st.lists(
        st.sampled_from(
            [ANALYSIS, FINAL, CALL, "<|end|>", "<|start|>assistant", "<|call|>", "<|", "message|>", " \n", "{}", "思"]
        ),
        max_size=8,
    ),
    st.booleans(),
    st.lists(st.integers(1, 9)),
)
@example([FINAL, " \n"], False, [9, 9, 9])
def test_cuts_of_harmony_do_not_matter(parts: list[str], is_open: bool, cuts: list[int]) -> None:
    text, at = "".join(parts), 0
    parser, events = HARMONY.parser(is_open), []
    for size in [*cuts, len(text)]:
        events += parser.push(text[at : at + size])
        at += size
    events += parser.finish()
    thought = "".join(e.text for e in events if isinstance(e, ReasoningPiece))
    answer = "".join(e.text for e in events if isinstance(e, AnswerPiece))
    assert (thought, answer) == split_reasoning(text, HARMONY, is_open)
