"""Decisions: a scripted model for the arithmetic, tiny random models for the way through the engine."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence

import pytest

import miaotui
from miaotui.errors import DeadlineUnattainableError, FieldError, PromptTooLongError, RequestError
from miaotui.kernels.runtime import compiled
from miaotui.llm import LLM
from miaotui.tasks import ChoiceQuestion, Decider, Decision, ScoreQuestion, YesNoQuestion
from miaotui.tasks.decisions.decision import DecisionOptions, LogitsRead, Questions, TokenReading, decision_steps
from miaotui.tasks.decisions.option_trie import Tokens
from tiny_models import make_tiny_folder

NEWS = ChoiceQuestion("What is it about?", ["sport", "food", "war"])


class ScriptedModel:
    """A model of characters: it likes the option whose name is in the text, and the one that is listed first."""

    end = 0

    def __init__(self, position_bias: float = 0.0, prior: Mapping[str, float] | None = None) -> None:
        self.bias, self.prior = position_bias, dict(prior or {})
        self.read: list[list[str]] = []  # prompts of each round

    def chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        return [ord(character) for character in messages[-1]["content"] + "\n>"]

    def option(self, text: str) -> Tokens:
        return tuple(ord(character) for character in text)

    def answer(self, readings: Sequence[TokenReading]) -> list[LogitsRead]:
        prompts = ["".join(map(chr, reading.prompt)) for reading in readings]
        self.read.append(prompts)
        return [self._one(prompt, reading.tokens) for prompt, reading in zip(prompts, readings, strict=True)]

    def _one(self, prompt: str, tokens: Sequence[int]) -> LogitsRead:
        text = prompt.partition("\n\n")[0]
        listed = re.findall(r"\((.*)\)\n>", prompt)[0].split(", ")
        begun = prompt.rpartition(">")[2]
        named = max((name for name in listed if name in text), key=len, default="")
        scores = []
        for token in tokens:
            fitting = [name for name in listed if (name + "\0").startswith(begun + chr(token))]
            scores.append(
                sum(
                    math.exp(4.0 * (name == named) + self.prior.get(name, 0.0) - self.bias * listed.index(name))
                    for name in fitting
                )
            )
        return LogitsRead([math.log(max(score, 1e-9)) - 8.0 for score in scores], 7)


def decided(
    model: ScriptedModel, text: str, questions: Questions, options: DecisionOptions | None = None
) -> list[Decision]:
    steps = decision_steps(model, text, questions, options or DecisionOptions(prior_weight=1.0))
    try:
        readings = next(steps)
        while True:
            readings = steps.send(model.answer(readings))
    except StopIteration as ended:
        found: list[Decision] = ended.value
        return found


def test_the_likeliest_option_with_its_probability() -> None:
    (found,) = decided(ScriptedModel(), "a war began", NEWS)
    assert found.answer == found.best == "war"
    assert found.confidence == pytest.approx(math.exp(4) / (math.exp(4) + 2))
    assert sum(found.probabilities.values()) == pytest.approx(1.0)
    assert found.orders_agree
    assert 0 < found.label_mass < 1
    assert found.cached_tokens == 14


def test_the_bias_of_positions_is_taken_off() -> None:
    """A model that prefers what is listed first answers the same as one that does not."""
    fair, biased = decided(ScriptedModel(), "a war began", NEWS)[0], decided(ScriptedModel(3.0), "a war began", NEWS)[0]
    assert biased.probabilities == pytest.approx(fair.probabilities)


def test_two_orders_alone_make_positions_even() -> None:
    (found,) = decided(ScriptedModel(3.0), "nothing", NEWS, DecisionOptions())
    assert not found.orders_agree
    assert found.probabilities == pytest.approx(dict.fromkeys(("sport", "food", "war"), 1 / 3))


def test_what_a_model_likes_before_it_reads_is_taken_off_and_remembered() -> None:
    model, options = ScriptedModel(prior={"sport": 6.0}), DecisionOptions(prior_weight=1.0)
    assert decided(model, "a war began", NEWS, options)[0].best == "war"
    assert sum(map(len, model.read)) == 4
    assert decided(model, "food is good", NEWS, options)[0].best == "food"
    assert sum(map(len, model.read)) == 6  # the prompts without content were known
    assert decided(model, "a war began", NEWS, DecisionOptions())[0].best == "sport"


def test_the_order_of_the_request_changes_nothing() -> None:
    names = ["sport", "food", "war"]
    for order in (names, names[::-1], ["food", "war", "sport"]):
        (found,) = decided(ScriptedModel(2.0), "a war began", ChoiceQuestion("What?", order))
        assert found.best == "war"
        assert found.confidence == pytest.approx(0.9647, abs=1e-4)


def test_one_input_is_read_first_and_shared() -> None:
    model = ScriptedModel()
    questions = {"about": NEWS, "bad": YesNoQuestion("Is it bad?"), "how": ScoreQuestion("How bad?", ["not", "a bit"])}
    found = decided(model, "a war began", questions)
    assert [each.name for each in found] == ["about", "bad", "how"]
    assert [len(prompts) for prompts in model.read] == [1, 11]
    assert all(prompt.startswith("a war began\n\n") or "N/A" in prompt for prompt in model.read[1])


def test_a_scale_gives_its_expected_level() -> None:
    scale = ScoreQuestion("How hot?", {"cold": None, "mild": "15 to 25 degrees", "hot": None})
    (found,) = decided(ScriptedModel(), "it is mild", scale)
    assert found.best == "mild"
    assert found.score == pytest.approx(1.0)
    assert decided(ScriptedModel(), "it is hot", scale)[0].score == pytest.approx(2 * 0.9647 + 0.0177, abs=1e-3)


def test_options_that_begin_alike_are_read_further() -> None:
    question = ChoiceQuestion("What?", ["card_lost", "card_late", "card"])
    model = ScriptedModel()
    (found,) = decided(model, "my card late", question)
    assert found.best == "card_late"
    assert sum(found.probabilities.values()) == pytest.approx(1.0)
    assert found.label_mass == 1.0


def test_below_the_threshold_it_abstains() -> None:
    (found,) = decided(ScriptedModel(), "nothing", NEWS, DecisionOptions(threshold=0.5))
    assert found.answer is None
    assert found.best is not None


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (ChoiceQuestion("What?", ["a"]), "must have 2 to 256 options, not 1"),
        (ChoiceQuestion("What?", ["a", "a"]), "'a' is there twice"),
        (ChoiceQuestion("What?", ["a_b", "a b"]), "'a b' is there twice"),
        (ChoiceQuestion("What?", ["a", ""]), "an option must be a text"),
        (ChoiceQuestion("What?", "ab"), "must be a list of names"),
        (ChoiceQuestion(" ", ["a", "b"]), "its text must not be empty"),
        (ScoreQuestion("What?", [str(level) for level in range(17)]), "must have 2 to 16 options, not 17"),
    ],
)
def test_a_question_that_cannot_be_asked_fails_alone(question: ChoiceQuestion, message: str) -> None:
    bad, good = decided(ScriptedModel(), "a war began", [question, NEWS])
    assert bad.error is not None
    assert bad.error.startswith("questions['0']")
    assert message in bad.error
    assert good.best == "war"


def test_inputs_that_cannot_be_taken() -> None:
    for text in ("", "  ", 3):
        with pytest.raises(FieldError, match="input"):
            decided(ScriptedModel(), text, NEWS)  # type: ignore[arg-type]
    for questions in ([], [NEWS] * 65):
        with pytest.raises(FieldError, match="1 to 64 questions"):
            decided(ScriptedModel(), "x", questions)


# a model --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    folder = tmp_path_factory.mktemp("home")
    compiled.cache_folder()  # remembered for the rest of the process
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIAOTUI_HOME", str(folder))
        with miaotui.load(make_tiny_folder(folder, "llama"), backend="reference") as opened:
            yield opened


SHORT = ChoiceQuestion("?", ["it", "an", "no"])


def test_named_tokens_have_their_log_probabilities(llm: LLM) -> None:
    named = (5, 300, 0)
    found = llm.generate("Hi", max_tokens=1, logprobs=0, logprob_token_ids=named).logprobs[0]
    assert tuple(token for token, _ in found.top) == named
    for token, logprob in found.top:
        assert llm.score("Hi", [[token]])[0].logprob == pytest.approx(logprob, abs=1e-5)
    (scored,) = llm.generate("Hi", max_tokens=0, prompt_logprobs=0, logprob_token_ids=named).prompt_logprobs[1:]
    assert scored is not None
    assert tuple(token for token, _ in scored.top) == named
    with pytest.raises(RequestError, match="give logprobs or prompt_logprobs with it"):
        llm.generate("Hi", max_tokens=1, logprob_token_ids=named)
    with pytest.raises(RequestError, match="logprob_token_ids names token 320"):
        llm.generate("Hi", max_tokens=1, logprobs=0, logprob_token_ids=[320])


def test_a_decision_is_that_of_whole_scores(llm: LLM) -> None:
    """TokenReading single tokens gives the same as scoring each option's tokens one by one."""
    decider = Decider(llm, DecisionOptions(model="tiny"))
    (found,) = decider.decide("cat", SHORT)
    assert set(found.probabilities) == {"it", "an", "no"}
    again = decider.decide("cat", {"a": SHORT, "b": YesNoQuestion("?")})
    assert again[0].probabilities == found.probabilities
    assert again[0].cached_tokens > 0
    shuffled = decider.decide("cat", ChoiceQuestion("?", ["no", "it", "an"]))[0]
    assert shuffled.probabilities == pytest.approx(found.probabilities)


def test_calibration_changes_no_choice(llm: LLM) -> None:
    decider = Decider(llm)
    before = [decider.decide(text, SHORT)[0] for text in ("cat", "dog")]
    assert not before[0].calibrated
    report = decider.calibrate(
        [(text, SHORT, each.best or "") for text, each in zip(("cat", "dog"), before, strict=True)]
    )
    assert report.accuracy == 1.0
    after = [decider.decide(text, SHORT)[0] for text in ("cat", "dog")]
    assert [each.best for each in after] == [each.best for each in before]
    assert after[0].calibrated
    with pytest.raises(FieldError, match="'other' is none of"):
        decider.calibrate([("cat", SHORT, "other")])


def test_what_does_not_fit_and_what_is_late(llm: LLM) -> None:
    decider = Decider(llm)
    (found,) = decider.decide("cat " * 5000, SHORT)
    assert found.error is not None
    assert "tokens" in found.error
    with pytest.raises((DeadlineUnattainableError, PromptTooLongError)):
        decider.decide("cat", SHORT, deadline_ms=0.01)
