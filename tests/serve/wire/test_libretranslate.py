"""LibreTranslate's routes: JSON and forms, lists, detection, and the words of their errors."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from serving import Serving, serving

from miaotui.backends.options import EngineOptions
from tiny_engine import settings_in
from tiny_models import make_tiny_folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("libretranslate")
    models = {"tiny": make_tiny_folder(folder, "llama")}
    with serving(models, settings_in(folder), options=EngineOptions(backend="reference")) as running:
        yield running


def test_texts_without_letters_and_of_the_target_language_stay(server: Serving) -> None:
    body = {"q": ["😀", "123"], "source": "en", "target": "zh"}
    assert httpx.post(server.url + "/translate", json=body).json() == {"translatedText": ["😀", "123"]}
    form = {"q": "<p>Good day to all of you</p>", "source": "auto", "target": "en", "format": "html"}
    found = httpx.post(server.url + "/translate", data=form).json()
    assert found["translatedText"] == "<p>Good day to all of you</p>"
    assert found["detectedLanguage"]["language"] == "en"
    assert 0 < found["detectedLanguage"]["confidence"] <= 100


def test_languages_are_detected_and_listed(server: Serving) -> None:
    (found,) = httpx.post(server.url + "/detect", data={"q": "今天天气很好"}).json()
    assert found["language"] == "zh"
    assert found["confidence"] == 100.0
    listed = {each["code"]: each for each in httpx.get(server.url + "/languages").json()}
    assert listed["zh"]["name"] == "Chinese"
    assert "en" in listed["zh"]["targets"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"source": "en", "target": "es"}, "Invalid request: missing q parameter"),
        ({"q": [], "source": "en", "target": "es"}, "Invalid request: missing q parameter"),
        ({"q": "Hello", "target": "es"}, "Invalid request: missing source parameter"),
        ({"q": "Hello", "source": "en"}, "Invalid request: missing target parameter"),
        ({"q": "Hello", "source": "en", "target": "zz"}, "zz is not supported"),
        ({"q": "Hello", "source": "zz", "target": "es"}, "zz is not supported"),
        ({"q": "Hello", "source": "en", "target": "es", "format": "xml"}, "xml format is not supported"),
        (
            {"q": "Hello", "source": "en", "target": "es", "alternatives": "abc"},
            "Invalid request: alternatives parameter is not a number",
        ),
        ({"q": [1], "source": "en", "target": "es"}, "Invalid request: q must be a text or a list of texts"),
    ],
)
def test_wrong_requests_are_named_as_clients_know_it(server: Serving, body: dict[str, object], message: str) -> None:
    answer = httpx.post(server.url + "/translate", json=body)
    assert (answer.status_code, answer.json()) == (400, {"error": message})


def test_what_is_no_object_is_refused(server: Serving) -> None:
    answer = httpx.post(server.url + "/translate", json=["not", "a", "dict"])
    assert (answer.status_code, answer.json()) == (400, {"error": "Invalid JSON format"})


def test_what_a_model_cannot_translate_is_an_error(server: Serving) -> None:
    answer = httpx.post(server.url + "/translate", json={"q": "cat sat", "source": "en", "target": "ru"}, timeout=60)
    assert answer.status_code == 500  # the tiny model writes noise
    assert answer.json()["error"].startswith("Cannot translate text: texts[0]: ")
    task = {"texts": ["cat sat", "123"], "target": "ru"}
    found = httpx.post(server.url + "/v1/tasks/translate", json=task, timeout=60).json()
    assert found["data"][0]["error"]
    assert found["data"][1]["text"] == "123"
