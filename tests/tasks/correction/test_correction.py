"""Correction: candidates hold what is right, edits stay only for what they gain, and what is right stays as it is."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from correction_judge import RANKS, languages, run

import miaotui
from infill_models import make_infill_folder
from miaotui.kernels.runtime import compiled
from miaotui.llm import LLM
from miaotui.tasks import correct
from miaotui.tasks.correction.candidates import EditCandidate
from miaotui.tasks.correction.chinese import chinese_candidates
from miaotui.tasks.correction.confusions import confused
from miaotui.tasks.correction.corrector import MAX_CHARACTERS, ScoredSentences, SentenceScore, correction_steps
from miaotui.tasks.correction.english import english_candidates, known_words
from miaotui.tasks.correction.reading import languages_of, score_read, score_requests
from miaotui.tasks.correction.result import applied

KNOWN = {
    word: rank
    for rank, word in enumerate(["receive", "received", "letter", "walk", "walked", "walking", "nation", "national"])
}


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("I recieve it", "I receive it"),
        ("I recive it", "I receive it"),
        ("He walk home", "He walked home"),
        ("He go home", "He goes home"),
        ("their is one", "there is one"),
        ("i am", "I am"),
        ("I saw the the cat", "I saw the cat"),
        ("Recieved today", "Received today"),
        ("the wlak", "the walk"),
        ("letterwalk now", "letter walk now"),
        ("two mans", "two men"),
        ("I saw cat", "I saw a cat"),
    ],
)
def test_candidates_hold_what_is_right(wrong: str, right: str) -> None:
    found = [each.applied(wrong) for each in english_candidates(wrong, KNOWN)]
    assert right in found
    assert wrong not in found


@pytest.mark.parametrize(
    ("wrong", "left_out"),
    [
        ("He is more taller", "He is taller"),
        ("the most biggest one", "the biggest one"),
        ("It is more better", "It is better"),
        ("I need more water", None),
        ("That very morning", None),
        ("What a strange idea that was", None),
    ],
)
def test_words_are_left_out_only_where_they_are_said_twice(wrong: str, left_out: str | None) -> None:
    known = {word: rank for rank, word in enumerate(["tall", "big", "better", "water", "morning", "idea"])}
    shorter = [each.applied(wrong) for each in english_candidates(wrong, known) if not each.text]
    assert shorter == ([] if left_out is None else [left_out])
    assert not [each for each in chinese_candidates("是她发现的了", lambda _: False) if not each.text]


def test_names_and_words_with_a_candidate_keep_their_case() -> None:
    found = {each.text for each in english_candidates("WALKD and Recieve", KNOWN)}
    assert "WALK" in found
    assert "Receive" in found
    assert all(each.need >= 8 for each in english_candidates("we met Leter", KNOWN) if each.text == "Letter")


def test_known_words_are_those_with_a_space_before_them(llm: LLM) -> None:
    known = known_words(llm.tokenizer, llm.config.vocab_size)
    spelt = {llm.tokenizer.token_bytes(token) for token in range(llm.config.vocab_size)}
    assert set(known) == {each[1:].decode().lower() for each in spelt if re.fullmatch(rb" [A-Za-z]+", each)}


def test_characters_are_exchanged_where_they_form_words() -> None:
    is_word = {"再见", "天气", "晚上"}.__contains__
    assert "明天再见" in [each.applied("明天在见") for each in chinese_candidates("明天在见", is_word)]
    assert "今天的天气真好" in [
        each.applied("今天的天汽真好") for each in chinese_candidates("今天的天汽真好", is_word)
    ]
    assert "跑得快" in [each.applied("跑的快") for each in chinese_candidates("跑的快", lambda _: False)]
    assert EditCandidate(0, 1, "", 2.5) in chinese_candidates("的的", lambda _: False)
    assert not chinese_candidates("abc, 12", is_word)


def test_confusion_is_mutual() -> None:
    for character in "在再的地得己已情请天田座坐":
        for other, _ in confused(character):
            assert character in [each for each, _ in confused(other)]


def test_what_no_sentence_can_tell_is_left_alone() -> None:
    assert not [each for each in chinese_candidates("她弹琴", lambda _: True) if each.text in ("他", "它")]


def test_edits_stay_for_what_they_gain() -> None:
    text = "We recieved the leter.  The cat sat on the the mat.\n今天我们明天在见。"
    found, rounds = run(correction_steps(text, languages(), index=3, model="m"))
    assert found.text == "We received the letter.  The cat sat on the mat.\n今天我们明天再见。"
    assert applied(text, found.edits) == found.text
    assert [text[each.start : each.end] for each in found.edits] == [each.before for each in found.edits]
    assert all(each.gain > 0 for each in found.edits)
    assert (found.index, found.model, found.error) == (3, "m", None)
    assert all(len(each) <= 64 for each in rounds)


def test_what_is_right_stays_and_costs_two_rounds() -> None:
    text = "The cat sat on the mat."
    found, rounds = run(correction_steps(text, languages()))
    assert (found.text, found.edits) == (text, ())
    assert len(rounds) == 2
    assert rounds[0] == [text]


def test_surprise_is_that_of_a_span_and_what_follows() -> None:
    score = SentenceScore(-12.0, [(3, -1.0), (7, -8.0), (11, -3.0)])
    assert score.surprise(0, 3) == 8.0
    assert score.surprise(8, 11) == 3.0


@pytest.mark.parametrize("bad", ["", "  ", None, 5, "x" * (MAX_CHARACTERS + 1)])
def test_texts_that_cannot_be_taken_have_an_error(bad: object) -> None:
    found, rounds = run(correction_steps(bad, languages(), index=2))
    assert found.text is None
    assert "texts[2]" in str(found.error)
    assert not rounds


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    folder = tmp_path_factory.mktemp("correction")
    compiled.cache_folder()  # remembered for the rest of the process
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIAOTUI_HOME", str(folder / "home"))
        with miaotui.load(make_infill_folder(folder), threads=1) as loaded:
            yield loaded


def test_scores_are_those_of_the_model(llm: LLM) -> None:
    wanted = ScoredSentences("say:\n", ["the end", "好 end"])
    requests = score_requests(wanted, llm.tokenizer, llm.context)
    assert all(params.max_tokens == 0 for _, params in requests)
    for (tokens, params), sentence in zip(requests, wanted.sentences, strict=True):
        completion = llm.generate(tokens, params)
        score = score_read(completion, llm.tokenizer)
        (expected,) = llm.score(wanted.prompt, [sentence])
        assert score.total == pytest.approx(expected.logprob, abs=1e-9)
        assert score.ends[-1][0] == len(sentence)


def test_a_call_corrects_many_texts_and_names_those_it_cannot(llm: LLM) -> None:
    found = correct(["the end", "", "那个"], model=llm)
    assert [each.index for each in found] == [0, 1, 2]
    assert "texts[1]" in str(found[1].error)
    for each, given in ((found[0], "the end"), (found[2], "那个")):
        assert each.text is not None
        assert applied(given, each.edits) == each.text
        assert each.took_ms > 0
    assert correct("the end", model=llm)[0].text == found[0].text  # a random model, but always the same one
    late = correct(["the end"], model=llm, deadline_ms=1e-6)
    assert "no time" in str(late[0].error)
    assert languages_of(llm.tokenizer).is_chinese("再见")
    assert len(RANKS) > 5
