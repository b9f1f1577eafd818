"""Encoder-decoders over HTTP: translations, summaries and completions, beside the Python calls, and refusals."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import pytest
from serving import Serving, serving

from miaotui.backends.build_seq2seq import Seq2SeqOptions
from miaotui.engine.jobs.admission import QueueLimits
from miaotui.runtime import open_seq2seq_model
from miaotui.seq2seq.model import Seq2Seq
from miaotui.serve.models import ServedModels
from miaotui.serve.ops.operations import Operations
from miaotui.serve.seq2seq.models import Seq2SeqModels
from python_entry import held_passes
from seq2seq_files import SENTENCES, marian_folder
from tiny_engine import settings_in

ENGLISH = SENTENCES[::2]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("targets")
    settings = settings_in(folder)

    def parts(_: ServedModels) -> Mapping[str, Any]:
        options = Seq2SeqOptions(backend="reference")
        loop = open_seq2seq_model(marian_folder(folder / "m"), options, queue=QueueLimits(8, 4000), settings=settings)
        targets = Seq2SeqModels({"en-de": loop})
        models = ServedModels(seq2seq_names=targets.keys)
        return {"models": models, "seq2seq": targets, "operations": Operations(models, seq2seq=targets)}

    with serving({}, settings, parts=parts) as running:
        yield running


@pytest.fixture
def model(server: Serving) -> Seq2Seq:
    return Seq2Seq(server.services.seq2seq["en-de"].model.loop)


def post(server: Serving, path: str, **body: Any) -> httpx.Response:
    return httpx.post(server.url + path, json=body, timeout=60)


def sound(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_completions_are_the_targets_of_texts(server: Serving, model: Seq2Seq) -> None:
    expected = model.generate(ENGLISH)
    answer = sound(post(server, "/v1/completions", prompt=ENGLISH, temperature=0))
    assert [each["text"] for each in answer["choices"]] == [each.text for each in expected]
    assert [each["finish_reason"] for each in answer["choices"]] == [
        "length" if each.is_cut else "stop" for each in expected
    ]
    assert answer["usage"]["prompt_tokens"] == sum(each.source_tokens for each in expected)
    assert answer["usage"]["completion_tokens"] == sum(len(each.token_ids) for each in expected)
    ids = model.loop.model.tokenizer.source(ENGLISH[0])
    by_ids = sound(post(server, "/v1/completions", model="en-de", prompt=ids, max_tokens=3))
    assert by_ids["choices"][0]["text"] == model.generate(ENGLISH[0], max_length=4)[0].text
    drawn = [sound(post(server, "/v1/completions", prompt=ENGLISH, temperature=1.5, seed=5)) for _ in range(2)]
    assert drawn[0]["choices"] == drawn[1]["choices"] != answer["choices"]


def test_a_streamed_completion_is_the_whole_one(server: Serving) -> None:
    whole = sound(post(server, "/v1/completions", prompt=ENGLISH[:2]))
    usage = {"include_usage": True}
    streamed = post(server, "/v1/completions", prompt=ENGLISH[:2], stream=True, stream_options=usage).text
    events = [line.removeprefix("data: ") for line in streamed.split("\n\n") if line]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(each) for each in events[:-1]]
    assert [choice for each in chunks for choice in each["choices"]] == whole["choices"]
    assert chunks[-1]["usage"] == whole["usage"]


@pytest.mark.parametrize("sampling", [{"temperature": 1.5, "seed": 3}, {"temperature": 0.7, "seed": 9}])
def test_tokens_of_a_search_without_beams_come_as_they_are_written(server: Serving, sampling: dict[str, Any]) -> None:
    whole = sound(post(server, "/v1/completions", prompt=ENGLISH, **sampling))["choices"]
    backend = server.services.seq2seq["en-de"].model.loop.model.backend
    request = {"prompt": ENGLISH, "stream": True, **sampling}
    pieces = []
    with (
        held_passes(backend, after=4) as go_on,
        httpx.stream("POST", server.url + "/v1/completions", json=request, timeout=60) as answer,
    ):
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                pieces.append(json.loads(line.removeprefix("data: "))["choices"][0])
                go_on.set()
    assert pieces[0]["text"]
    assert pieces[0]["finish_reason"] is None
    for index, choice in enumerate(whole):
        own = [each for each in pieces if each["index"] == index]
        assert "".join(each["text"] for each in own) == choice["text"]
        assert [each["finish_reason"] for each in own if each["finish_reason"]] == [choice["finish_reason"]]
        assert own[-1]["finish_reason"]


@pytest.mark.parametrize(
    ("field", "value"),
    [("logprobs", 1), ("echo", True), ("n", 2), ("stop", "x"), ("max_tokens", 0), ("top_p", 0.5), ("suffix", "x")],
)
def test_fields_without_a_meaning_are_refused_by_name(server: Serving, field: str, value: object) -> None:
    answer = post(server, "/v1/completions", prompt="dog", **{field: value})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == field


def test_translations_are_those_of_python_on_both_routes(server: Serving, model: Seq2Seq) -> None:
    texts = [*ENGLISH, "<b>The dog</b> runs.", "", "42"]
    expected = model.translate(texts, source="en", target="de", format="html")
    rows = sound(post(server, "/v1/tasks/translate", texts=texts, source="en", target="German", format="html"))["data"]
    assert [(each["text"], each.get("error")) for each in rows] == [(each.text, each.error) for each in expected]
    assert {each["model"] for each in rows} == {"en-de"}
    libre = post(server, "/translate", q=["42", "7"], source="en", target="de")
    assert sound(libre) == {"translatedText": ["42", "7"]}
    wrong = post(server, "/v1/tasks/translate", texts=texts, source="en", target="fr")
    assert wrong.status_code == 400
    assert "from en to de" in wrong.text
    mixed = sound(post(server, "/v1/tasks/translate", texts=[5, "42"], target="de"))["data"]
    assert "must be a text" in mixed[0]["error"]
    assert mixed[1]["text"] == "42"


def test_summaries_are_written_and_checked(server: Serving) -> None:
    texts = [ENGLISH[0], "dog " * 500]
    rows = sound(post(server, "/v1/tasks/summarize", texts=texts, sentences=1, method="write"))["data"]
    assert rows[0]["text"]
    assert "takes" in rows[1]["error"]


def test_the_server_lists_counts_and_checks_it(server: Serving) -> None:
    (listed,) = sound(httpx.get(server.url + "/v1/models"))["data"]
    assert (listed["id"], listed["kind"], listed["loaded"]) == ("en-de", "encoder-decoder", True)
    assert sound(httpx.get(server.url + "/v1/models/en-de")) == listed
    assert httpx.get(server.url + "/health").status_code == 200
    assert httpx.get(server.url + "/ready").status_code == 200
    metrics = httpx.get(server.url + "/metrics").text
    assert 'vllm:request_success_total{finished_reason="stop",model_name="en-de"}' in metrics
    assert 'vllm:generation_tokens_total{model_name="en-de"}' in metrics
    for gauge in ("vllm:num_requests_running", "miaotui_deadline_met_total", "miaotui_pass_seconds_total"):
        assert f'{gauge}{{model_name="en-de"}}' in metrics
    assert 'miaotui_step_seconds_count{model_name="en-de"}' in metrics
    chat = post(server, "/v1/chat/completions", messages=[{"role": "user", "content": "hi"}])
    assert chat.status_code == 400
    assert "encoder-decoder" in chat.text


def test_deadlines_are_kept_or_refused(server: Serving) -> None:
    late = post(server, "/v1/completions", prompt=ENGLISH, deadline_ms=0.5)
    assert late.status_code == 429
    kept = sound(post(server, "/v1/completions", prompt=ENGLISH[0], deadline_ms=30_000))
    assert kept["deadline"]["met"]
    assert kept["deadline"]["asked_ms"] == 30_000
    assert kept["deadline"]["predicted_ms"] > 0
