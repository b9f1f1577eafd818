"""Tasks over HTTP: labels, sentiments and decisions give what Python gives, and wrong requests are named."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import Serving, serving

from miaotui.backends.options import EngineOptions
from miaotui.encoder import Encoder
from miaotui.errors import MiaotuiError
from miaotui.serve.tasks.heads import open_heads
from miaotui.tasks import ChoiceQuestion, Classifier, OptionEncoder, duplicates, group, similar
from miaotui.tasks.decisions.questions import read_question
from miaotui.tasks.decisions.weights import USUAL_WEIGHTS
from miaotui.tasks.heads.head_file import save_head
from tiny_encoder_models import make_encoder_folder, open_tiny
from tiny_engine import settings_in
from tiny_models import make_tiny_folder

TEXTS = ["the cat sat", "", "ping pong", 7, "cat " * 100]
EXAMPLES = [("the cat", "animal"), ("cat cat", "animal"), ("ping", "game"), ("pong pong", "game")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tasks")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Serving]:
    models = {"tiny": make_tiny_folder(folder, "llama")}
    encoders = {"embed": make_encoder_folder(folder, "embed")}
    options = EngineOptions(backend="reference")
    with open_tiny(encoders["embed"], settings_in(folder)) as encoder:
        texts, labels = zip(*EXAMPLES, strict=True)
        made = Classifier.fit(encoder, texts, labels)
        made.save(folder / "head.json")
        other = replace(made.head, encoder="another")
        save_head(other, folder / "other.json")
    heads = open_heads([f"animals={folder / 'head.json'}", f"other={folder / 'other.json'}"])
    with serving(
        models, settings_in(folder), encoders=encoders, options=options, parts=lambda models: {"heads": heads}
    ) as running:
        yield running


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Iterator[Encoder]:
    with open_tiny(make_encoder_folder(folder, "embed"), settings_in(folder)) as opened:
        yield opened


def post(server: Serving, path: str, **body: Any) -> Any:
    answer = httpx.post(server.url + path, json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(server: Serving, path: str, **body: Any) -> Any:
    answer = httpx.post(server.url + path, json=body, timeout=60)
    assert answer.status_code == 400, answer.text
    return answer.json()["error"]


def test_labels_by_name_as_python_gives_them(server: Serving, encoder: Encoder) -> None:
    found = post(server, "/v1/tasks/classify", texts=TEXTS, labels=["cat", "ping"])
    ours = Classifier.from_names(encoder, ["cat", "ping"]).classify(TEXTS)
    assert [each["label"] for each in found["data"]] == [each.label for each in ours]
    assert [each["scores"] for each in found["data"]] == [dict(each.scores) for each in ours]
    assert [each.get("error") for each in found["data"]] == [each.error for each in ours]
    assert found["data"][4]["dropped_tokens"] == 22
    assert found["model"] == found["data"][0]["model"] == "embed"
    assert found["usage"]["total_tokens"] > 0
    assert found["deadline"]["met"] is None
    described = post(server, "/v1/tasks/classify", texts=["the cat"], labels={"a": "the cat", "b": ["ping", "pong"]})
    assert described["data"][0]["label"] == "a"


def test_labels_by_examples(server: Serving) -> None:
    examples = [{"text": text, "label": label} for text, label in EXAMPLES]
    found = post(server, "/v1/tasks/classify", texts=["the cat", "pong pong"], examples=examples, deadline_ms=60_000)
    assert [each["label"] for each in found["data"]] == ["animal", "game"]
    assert found["data"][0]["source"] == "examples"
    assert found["deadline"]["met"] is True
    assert refused(server, "/v1/tasks/classify", texts=["x"], examples=[*examples, {"text": "", "label": "a"}])
    assert "labels" in refused(server, "/v1/tasks/classify", texts=["x"], examples=examples[:2])["message"]


def test_labels_by_a_saved_head(server: Serving, encoder: Encoder, folder: Path) -> None:
    found = post(server, "/v1/tasks/classify", texts=["the cat", "", "pong pong"], head="animals")
    ours = Classifier.load(folder / "head.json", encoder).classify(["the cat", "", "pong pong"])
    assert [each["label"] for each in found["data"]] == [each.label for each in ours] == ["animal", None, "game"]
    assert [each["scores"] for each in found["data"]] == [dict(each.scores) for each in ours]
    assert found["data"][0]["calibrated"] is True
    told = post(server, "/v1/tasks/sentiment", texts=["the cat"], head="animals", neutral_below=0)
    assert told["data"][0]["label"] == "animal"


def test_heads_that_cannot_be_used(server: Serving) -> None:
    unknown = refused(server, "/v1/tasks/classify", texts=["x"], head="none")
    assert unknown["param"] == "head"
    assert "heads here: animals, other" in unknown["message"]
    assert "made with another" in refused(server, "/v1/tasks/classify", texts=["x"], head="other")["message"]
    assert refused(server, "/v1/tasks/classify", texts=["x"], head="animals", labels=["a", "b"])["param"] == "labels"
    examples = [{"text": text, "label": label} for text, label in EXAMPLES]
    assert refused(server, "/v1/tasks/sentiment", texts=["x"], head="animals", examples=examples)["param"] == "head"


@pytest.mark.parametrize(
    ("words", "said"),
    [(["x"], "expected NAME=FILE"), (["=x"], "expected NAME=FILE"), (["a=none.json"], "none.json cannot be read")],
)
def test_heads_that_a_server_does_not_start_with(words: list[str], said: str) -> None:
    with pytest.raises(MiaotuiError, match=said):
        open_heads(words)


def test_two_heads_of_one_name(server: Serving, folder: Path) -> None:
    with pytest.raises(MiaotuiError, match="two heads are called a"):
        open_heads([f"a={folder / 'head.json'}"] * 2)


def test_sentiments(server: Serving) -> None:
    found = post(server, "/v1/tasks/sentiment", texts=["cat", ""], neutral_below=1.0)
    assert found["data"][0]["label"] == "neutral"
    assert found["data"][1]["error"] == "texts[1]: must not be empty"
    examples = [{"text": text, "label": "positive" if "cat" in text else "negative"} for text, _ in EXAMPLES]
    found = post(server, "/v1/tasks/sentiment", texts=["cat cat"], examples=examples, neutral_below=0)
    assert found["data"][0]["label"] == "positive"


@pytest.mark.parametrize("route", ["classify", "sentiment"])
def test_words_that_carry_a_label_are_those_of_python(route: str, server: Serving, encoder: Encoder) -> None:
    texts = ["the cat, ping", "", "...", "cat cat"]
    examples = [{"text": text, "label": label} for text, label in EXAMPLES]
    found = post(server, f"/v1/tasks/{route}", texts=texts, examples=examples, words=2)["data"]
    classifier = Classifier.fit(encoder, *zip(*EXAMPLES, strict=True))
    expected = classifier.classify(texts, words=2)
    assert [len(each.get("words", [])) for each in found] == [2, 0, 0, 2]
    for each, python in zip(found, expected, strict=True):
        for word, wanted in zip(each.get("words", []), python.words, strict=True):
            assert (word["word"], word["start"], word["end"]) == (wanted.word, wanted.start, wanted.end)
            assert word["effect"] == pytest.approx(wanted.effect, abs=1e-4)


def test_too_many_words_are_named(server: Serving) -> None:
    body = {"texts": ["cat " * 64] * 40, "labels": ["a", "b"], "words": 1}
    assert "send fewer texts" in refused(server, "/v1/tasks/classify", **body)["message"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"texts": ["x"]}, "labels"),
        ({"texts": ["x"], "labels": ["a", "b"], "examples": []}, "labels"),
        ({"texts": ["x"], "labels": ["a", "a"]}, "labels[1]"),
        ({"texts": ["x"], "labels": ["a", ""]}, "labels[1]"),
        ({"texts": [], "labels": ["a", "b"]}, "texts"),
        ({"texts": ["x"], "labels": ["a", "b"], "template": "no place"}, "template"),
        ({"texts": ["x"], "labels": ["a", "b"], "threshold": 2}, "threshold"),
    ],
)
def test_wrong_requests_are_named(server: Serving, body: dict[str, Any], param: str) -> None:
    assert refused(server, "/v1/tasks/classify", **body)["param"] == param


QUESTIONS = [
    {"type": "choice", "instructions": "?", "name": "c", "choices": [{"value": "it"}, {"value": "an"}]},
    {"type": "predicate", "instructions": "Is it?"},
    {"type": "score", "instructions": "How?", "levels": [{"label": "no"}, {"label": "on", "description": "so"}]},
    {"type": "choice", "instructions": "?", "choices": [{"value": True}, {"value": False}]},
    {"type": "choice", "instructions": "?", "choices": [{"value": "it"}, {"value": "it"}]},
]


def test_decisions_in_openais_form(server: Serving) -> None:
    found = post(server, "/v1/decisions", model="tiny", input="cat", questions=QUESTIONS)
    choice, predicate, score, truth, twice = found["answers"]
    assert choice["type"] == "choice"
    assert choice["name"] == "c"
    assert choice["choice"] in ("it", "an")
    assert sum(each["probability"] for each in choice["probabilities"]) == pytest.approx(1.0)
    assert choice["confidence"] == max(each["probability"] for each in choice["probabilities"])
    assert 0 <= predicate["probability"] <= 1
    assert [each["value"] for each in score["probabilities"]] == [0, 1]
    assert score["score"] == pytest.approx(score["probabilities"][1]["probability"])
    assert truth["choice"] in (True, False)
    assert twice["type"] == "refusal"
    assert "there twice" in twice["error"]
    assert found["usage"]["output_tokens"] == 0
    parts = [{"role": "user", "content": [{"type": "input_text", "text": "cat"}]}]
    again = post(server, "/v1/decisions", input=parts, questions=QUESTIONS)
    assert again["answers"] == found["answers"]
    assert again["usage"]["input_tokens_details"]["cached_tokens"] > 0


def test_decisions_in_system_ones_form(server: Serving) -> None:
    questions = {
        "c": {"type": "choice", "instructions": "?", "criteria": {"it": None, "an": "some"}},
        "n": {"type": "noul", "instructions": "Is it?", "criteria": {"true": "it is"}},
        "s": {"type": "score", "instructions": "How?", "criteria": ["no", "on"]},
        "bad": {"type": "score", "instructions": "How?"},
    }
    found = post(server, "/v1/systemone", state={"seen": "cat"}, questions=questions)
    assert list(found["answers"]) == ["c", "n", "s", "bad"]
    assert found["answers"]["c"]["choice"] in ("it", "an")
    assert 0 <= found["answers"]["n"]["noul"] <= 1
    assert found["answers"]["s"]["legend"] == {"0": "no", "1": "on"}
    assert "must have 2 to 16 options" in found["answers"]["bad"]["error"]
    told_apart = post(server, "/v1/decisions", state={"seen": "cat"}, questions=questions)
    assert told_apart["answers"] == found["answers"]


def test_decisions_with_an_encoder(server: Serving, encoder: Encoder) -> None:
    """Likeness by an encoder moves the probabilities by as much as it does in Python."""
    alone = post(server, "/v1/decisions", model="tiny", input="the cat", questions=QUESTIONS)
    found = post(server, "/v1/decisions", model="tiny", input="the cat", questions=QUESTIONS, encoder="embed")
    asked = {"0": read_question("0", ChoiceQuestion("?", ["it", "an"]))}
    likeness = OptionEncoder(encoder).likeness("the cat", asked)["0"]
    before, after = (
        [math.log(each["probability"]) for each in each["answers"][0]["probabilities"]] for each in (alone, found)
    )
    weights = USUAL_WEIGHTS
    shift = (after[0] - after[1]) - weights.logits * (before[0] - before[1])
    assert shift == pytest.approx(weights.likeness * (likeness[0] - likeness[1]), abs=1e-4)
    assert found["answers"][-1]["type"] == "refusal"
    body = {"input": "x", "questions": QUESTIONS[:1]}
    assert httpx.post(server.url + "/v1/decisions", json={**body, "encoder": "none"}).status_code == 404
    assert refused(server, "/v1/decisions", **body, encoder="tiny")


def test_decisions_that_cannot_be_made(server: Serving) -> None:
    one = QUESTIONS[:1]
    assert refused(server, "/v1/decisions", input="", questions=one)["param"] == "input"
    assert refused(server, "/v1/decisions", input="x", questions=[])["param"] == "questions"
    assert refused(server, "/v1/decisions", model="embed", input="x", questions=one)["param"] == "model"
    late = httpx.post(server.url + "/v1/decisions", json={"input": "x", "questions": one, "deadline_ms": 0.01})
    assert late.status_code == 429


NEWS = "The council approved a tram line. The tram line connects the harbour with the university. It rained."


def test_summaries(server: Serving) -> None:
    found = post(server, "/v1/tasks/summarize", texts=[NEWS, ""], sentences=1, deadline_ms=60_000)
    (part,) = found["data"][0]["parts"]
    assert NEWS[part["start"] : part["end"]] == part["text"] == found["data"][0]["text"]
    assert found["data"][1]["error"] == "texts[1]: must not be empty"
    assert found["deadline"]["met"] is True
    written = post(server, "/v1/tasks/summarize", texts=["the cat sat.", 7, NEWS * 9], sentences=1, method="write")
    assert written["model"] == "tiny"
    assert written["data"][0]["text"], written  # the tiny model writes nothing sound: the summary is extracted
    assert written["data"][0]["method"] == "extract"
    assert "must be a text" in written["data"][1]["error"]
    assert "tokens with its instruction" in written["data"][2]["error"]
    assert "words" in refused(server, "/v1/tasks/summarize", texts=[NEWS], words=0)["message"]


def test_corrections(server: Serving) -> None:
    given = ["The the cat sat.", "", 7]
    found = post(server, "/v1/tasks/correct", texts=given, deadline_ms=60_000)
    whole, empty, wrong = found["data"]
    assert found["model"] == whole["model"] == "tiny"
    text = given[0]
    for edit in reversed(whole["edits"]):
        assert text[edit["start"] : edit["end"]] == edit["before"]
        text = text[: edit["start"]] + edit["after"] + text[edit["end"] :]
    assert text == whole["text"]
    assert empty["text"] is wrong["text"] is None
    assert "texts[1]" in empty["error"]
    assert "texts[2]" in wrong["error"]
    assert found["deadline"]["asked_ms"] == 60_000


def test_similar_texts_and_groups(server: Serving, encoder: Encoder) -> None:
    found = post(server, "/v1/tasks/similar", queries=["the cat", ""], texts=TEXTS, top=2)
    ours = similar(["the cat", ""], TEXTS, top=2, model=encoder)
    assert [each["found"] for each in found["data"]] == [[vars(text) for text in each.found] for each in ours]
    assert found["data"][1]["error"] == "queries[1]: must not be empty"
    found = post(server, "/v1/tasks/group", texts=TEXTS, groups=2)
    expected = group(TEXTS, 2, model=encoder)
    assert [each["group"] for each in found["data"]] == [each.group for each in expected.texts]
    assert [each["members"] for each in found["groups"]] == [list(each.members) for each in expected.groups]
    assert found["data"][3]["error"] == "texts[3]: must be a text, not int"
    twice = post(server, "/v1/tasks/group", texts=["the cat", "ping", "the cat"], duplicates=True, least=0.9999)
    assert [each["group"] for each in twice["data"]] == [0, None, 0]
    assert "groups" in refused(server, "/v1/tasks/group", texts=["the cat"], groups=2)["message"]
    assert [each.members for each in duplicates(["a b", "c", "a b"], least=0.9999, model=encoder).groups] == [(0, 2)]


def test_extraction(server: Serving) -> None:
    found = post(server, "/v1/tasks/extract", texts=["The tram line is long.", ""], keywords=1)
    assert "tram line" in found["data"][0]["keywords"][0][0]
    assert found["data"][1]["error"] == "texts[1]: must not be empty"
    schema = {"type": "object", "properties": {"day": {"type": "string", "format": "date"}}, "required": ["day"]}
    found = post(server, "/v1/tasks/extract", texts=["cat on 4 May 2024"], schema=schema)
    assert found["data"][0].get("error") or found["data"][0]["values"] == {"day": "2024-05-04"}
    both = refused(server, "/v1/tasks/extract", texts=["x"], schema=schema, entities=["a"])
    assert "not both" in both["message"]
    assert "today" in refused(server, "/v1/tasks/extract", texts=["x"], keywords=1, today="2025-13-01")["message"]


def test_generation(server: Serving) -> None:
    found = post(server, "/v1/tasks/generate", texts=["the cat", 7], max_tokens=8, end="Bye.", case="upper")
    assert found["data"][0].get("error") or found["data"][0]["text"].endswith("BYE.")
    assert "must be a text" in found["data"][1]["error"]
    both = refused(server, "/v1/tasks/generate", texts=["x"], include=["cat"], avoid=["cat"])
    assert "to be used and to be avoided" in both["message"]
