"""Phrases read by a chat model: the scores of each alone, the best found in few passes, deadlines."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miaotui.apps.spans.phrase_scores import CandidatePhrase, PhraseReader, PhraseTrie, Tokens
from miaotui.backends.options import EngineOptions
from miaotui.errors import RefusedError
from miaotui.kernels.linear.formats import Format
from miaotui.llm import LLM
from miaotui.runtime import ModelOptions, open_model
from tiny_engine import settings_in
from tiny_models import make_tiny_folder
from tiny_tokenizer import write_tokenizer

PHRASES = ("ten", "the ten", "the end", "an end", "no", "it is the end", "it is", "it")
END = 9


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    place = tmp_path_factory.mktemp("models")
    folder = make_tiny_folder(place, "llama")
    write_tokenizer(folder)
    options = EngineOptions(format=Format.Q8, threads=1, chunk_size=64)
    with LLM(open_model(folder, ModelOptions(options), settings=settings_in(place))) as llm:
        yield llm


def reader(llm: LLM, due_s: float = float("inf")) -> PhraseReader:
    return PhraseReader(llm, llm.tokenizer.encode("Say how it ends: "), due_s)


def alone(llm: LLM, text: str) -> float:
    end = llm.tokenizer.eos_id
    assert end is not None
    tokens = [*llm.tokenizer.encode(text, special=False, whole=False), end]
    return llm.score(llm.tokenizer.encode("Say how it ends: "), [tokens])[0].logprob


@pytest.mark.parametrize("most_paths", [1, 2, 8])
def test_the_best_phrase_is_that_of_scores_read_alone(llm: LLM, most_paths: int) -> None:
    phrases = [CandidatePhrase(text, prior) for text, prior in zip(PHRASES, (0.5, 0, 3, 0, 1, 0, 0, 2), strict=True)]
    own = reader(llm)
    found = own.read(own.trie(phrases, weight=0.5, per_token=0.1), most_paths)
    expected = {
        phrase.text: phrase.prior
        + 0.5 * alone(llm, phrase.text)
        + 0.1 * (len(llm.tokenizer.encode(phrase.text, special=False, whole=False)) + 1)
        for phrase in phrases
    }
    assert found[0].is_whole
    assert found[0].phrase.text == max(expected, key=lambda text: expected[text])
    for each in found:
        if each.is_whole:
            assert each.score == pytest.approx(expected[each.phrase.text], abs=1e-4)
        else:
            assert expected[each.phrase.text] <= each.score + 1e-4 <= found[0].score + 2e-4


def test_paths_that_begin_alike_are_read_once(llm: LLM) -> None:
    trie = reader(llm).trie([CandidatePhrase(text) for text in ("it", "it is", "it is the end")])
    assert len(trie.paths(8)) == 1


def test_no_time_is_a_refusal(llm: LLM) -> None:
    own = reader(llm, time.perf_counter() - 1)
    with pytest.raises(RefusedError):
        own.read(own.trie([CandidatePhrase("it")]))


tokens = st.lists(st.integers(0, 3), min_size=1, max_size=4).map(lambda each: (*each, END))


@given(
    st.lists(tokens, min_size=1, max_size=12, unique=True), st.data(), st.integers(1, 5), st.sampled_from((0.0, 2.0))
)
@settings(max_examples=60, deadline=None)
def test_the_search_ends_at_the_best_of_all(each: list[Tokens], data: st.DataObject, most: int, slack: float) -> None:
    costs = st.floats(-8, 0)
    priors = data.draw(st.lists(st.floats(-3, 3), min_size=len(each), max_size=len(each)))
    logprobs = {
        (path[:place], path[place]): data.draw(costs) for path in dict.fromkeys(each) for place in range(len(path))
    }
    trie = PhraseTrie([CandidatePhrase(str(number), prior) for number, prior in enumerate(priors)], each)
    trie.learn((), [(token, logprobs[(), token]) for token in trie.wanted(())])
    rounds = 0
    while paths := trie.paths(most, slack=slack):
        rounds += 1
        assert rounds <= len(each)
        assert len(paths) <= most
        for path in paths:
            for place in range(1, len(path) + 1):
                prefix = path[:place]
                trie.learn(prefix, [(token, logprobs[prefix, token]) for token in trie.wanted(prefix)])
    right = [
        prior + sum(logprobs[path[:place], path[place]] for place in range(len(path)))
        for path, prior in zip(each, priors, strict=True)
    ]
    scores = trie.scores()
    assert max(score.score for score in scores if score.is_whole) == pytest.approx(max(right))
    assert all(score.is_whole for score, own in zip(scores, right, strict=True) if own > max(right) - slack + 1e-9)
