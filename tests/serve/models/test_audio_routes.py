"""Recordings over HTTP: forms of answers, streams, OpenAI's client, limits, deadlines, departures, hostile forms."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import openai
import pytest
from serving import Serving, serving

from miaotui.serve.models import ServedModels
from miaotui.serve.ops.operations import Operations
from miaotui.serve.settings import ServeSettings
from miaotui.serve.speech.models import SpeechModels
from miaotui.speech.forms import as_json, as_verbose_json, rendered
from miaotui.speech.recordings import Recording
from miaotui.speech.transcript import SAMPLE_RATE, TranscriptionOptions
from scripted_speech import ScriptedRecogniser, bursts, wait_until
from sound_files import encoded, tone, wav
from tiny_engine import settings_in

SPEECH = bursts("s" * 40)
RECORDING = wav(SPEECH, SAMPLE_RATE)
ROUTE = "/v1/audio/transcriptions"


@pytest.fixture(scope="module")
def recogniser() -> ScriptedRecogniser:
    return ScriptedRecogniser()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, recogniser: ScriptedRecogniser) -> Iterator[Serving]:
    chinese = ScriptedRecogniser("zh", language="zh", words=lambda *_: "歡迎收聽")

    def parts(_: ServedModels) -> Mapping[str, Any]:
        speech = SpeechModels({"whisper": recogniser, "zh": chinese})
        models = ServedModels(speech_names=speech.keys)
        return {"models": models, "speech": speech, "operations": Operations(models)}

    settings = ServeSettings(max_audio_bytes=2 << 20, max_body_bytes=100_000, ping_s=0.05)
    with serving({}, settings_in(tmp_path_factory.mktemp("speech")), serve=settings, parts=parts) as running:
        yield running
    assert recogniser.is_closed


def post(server: Serving, content: bytes = RECORDING, path: str = ROUTE, **fields: Any) -> httpx.Response:
    return httpx.post(server.url + path, files={"file": ("sound.wav", content)}, data=fields, timeout=30)


def problem(answer: httpx.Response) -> tuple[int, str | None, str]:
    error = answer.json()["error"]
    return answer.status_code, error["param"], error["message"]


def expected(**options: Any) -> Any:
    return Recording(SPEECH).transcribe(ScriptedRecogniser(), TranscriptionOptions(**options))


def test_json_is_the_text_with_seconds_and_the_deadline(server: Serving) -> None:
    answer = post(server).json()
    assert answer.pop("deadline")["asked_ms"] is None
    assert answer == as_json(expected())
    assert answer["usage"] == {"type": "duration", "seconds": 40.0}


@pytest.mark.parametrize("form", ["text", "srt", "vtt"])
def test_texts_and_subtitles(server: Serving, form: str) -> None:
    answer = post(server, response_format=form)
    assert answer.text == rendered(expected(), form)
    assert answer.headers["content-type"].startswith({"srt": "application/x-subrip"}.get(form, "text/"))


def test_verbose_json_has_words_and_segments_as_they_are_asked_for(server: Serving) -> None:
    fields = {"response_format": "verbose_json", "timestamp_granularities[]": ["word", "segment"]}
    answer = post(server, **fields).json()
    del answer["deadline"]
    assert answer == json.loads(json.dumps(as_verbose_json(expected(word_times=True), ("word", "segment"))))
    assert len(answer["segments"]) == 2
    assert "words" not in post(server, response_format="verbose_json").json()


def test_translations_are_asked_for_as_such(server: Serving) -> None:
    assert "translate" in post(server, path="/v1/audio/translations").json()["text"]


def test_a_stream_is_the_whole_text_in_pieces(server: Serving) -> None:
    lines = [line.removeprefix("data: ") for line in post(server, stream="true").text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    *deltas, done = [json.loads(line) for line in lines[:-1] if not line.startswith(":")]
    assert {each["type"] for each in deltas} == {"transcript.text.delta"}
    assert len(deltas) == 2
    assert "".join(each["delta"] for each in deltas) == done["text"] == expected().text
    assert (done["type"], done["language"]) == ("transcript.text.done", "en")


def test_openais_client_reads_all_of_it(server: Serving) -> None:
    client = openai.OpenAI(api_key="none", base_url=f"{server.url}/v1")
    file = ("sound.flac", encoded("flac", SPEECH, SAMPLE_RATE))
    plain = client.audio.transcriptions.create(file=file, model="whisper", language="en", temperature=0.2)
    assert plain.text == expected().text
    verbose = client.audio.transcriptions.create(
        file=file, model="whisper", response_format="verbose_json", timestamp_granularities=["word"]
    )
    assert verbose.duration == 40
    assert [word.word for word in verbose.words or ()] == expected().text.split()
    assert client.audio.transcriptions.create(file=file, model="whisper", response_format="srt") == rendered(
        expected(), "srt"
    )
    with client.audio.transcriptions.create(file=file, model="whisper", stream=True) as events:
        *deltas, done = list(events)
    assert "".join(each.delta for each in deltas) == done.text
    assert client.audio.translations.create(file=file, model="whisper").text == expected(task="translate").text


def test_chinese_is_simplified_unless_another_script_is_wanted(server: Serving) -> None:
    assert post(server, model="zh").json()["text"] == "欢迎收听欢迎收听"
    assert post(server, model="zh", script="as_is").json()["text"] == "歡迎收聽歡迎收聽"
    assert "欢迎" in post(server, model="zh", stream="true").text


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"model": "none"}, 404, "model"),
        ({"language": "xx"}, 400, "language"),
        ({"temperature": "2"}, 400, "temperature"),
        ({"temperature": "warm"}, 400, "temperature"),
        ({"beam_size": "99"}, 400, "beam_size"),
        ({"response_format": "diarized_json"}, 400, "response_format"),
        ({"timestamp_granularities[]": "letter"}, 400, "timestamp_granularities[0]"),
        ({"timestamp_granularities[]": "word"}, 400, "timestamp_granularities"),
        ({"include[]": "logprobs"}, 400, "include"),
        ({"deadline_ms": "-1"}, 400, "deadline_ms"),
        ({"prompt": "x" * 70_000}, 400, "prompt"),
        ({"language": ["en", "de"]}, 400, "language"),
    ],
)
def test_fields_that_are_wrong_are_named(server: Serving, fields: dict[str, Any], status: int, param: str) -> None:
    assert problem(post(server, **fields))[:2] == (status, param)


def test_unknown_fields_are_named_in_the_answer(server: Serving) -> None:
    assert post(server, colour="blue").headers["x-ignored-fields"] == "colour"


def test_hostile_recordings_and_forms_have_one_error_each(server: Serving) -> None:
    for content in (b"words, not sound", RECORDING[:30], wav(tone(1), 1), b""):
        status, param, message = problem(post(server, content))
        assert (status, param) == (400, "file")
        assert len(message) < 300
    url = server.url + ROUTE
    head = {"content-type": "multipart/form-data; boundary=x"}
    for body in (
        b"",
        b"--x",
        b"--x\r\n\r\n\r\n--x--",
        b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\nv\r\n--x",
    ):
        assert httpx.post(url, content=body, headers=head).status_code == 400
    many = b"".join(b'--x\r\nContent-Disposition: form-data; name="a%d"\r\n\r\nv\r\n' % n for n in range(100))
    assert "more than 64 parts" in httpx.post(url, content=many + b"--x--", headers=head).text
    long = b"--x\r\nContent-Disposition: form-data; name=" + b"n" * 5000 + b"\r\n\r\nv\r\n--x--"
    assert httpx.post(url, content=long, headers=head).status_code == 400
    assert httpx.post(url, json={"file": "x"}).status_code == 415
    assert httpx.post(url, content=b"x", headers={"content-type": "multipart/form-data"}).status_code == 400


def test_bodies_are_bounded_before_they_are_read(server: Serving) -> None:
    assert post(server, b"x" * (3 << 20)).status_code == 413
    large = httpx.post(server.url + "/v1/completions", content=b"x" * 200_000)
    assert large.status_code == 413


def test_silence_and_noise_have_no_words(server: Serving, recogniser: ScriptedRecogniser) -> None:
    windows = recogniser.windows
    quiet = wav(bursts("." * 10 + "n" * 10), SAMPLE_RATE)
    assert post(server, wav(bursts("." * 20), SAMPLE_RATE), response_format="text").text == "\n"
    assert post(server, wav(bursts("n" * 20), SAMPLE_RATE), stream="true").text.count("delta") == 0
    assert recogniser.windows == windows
    assert post(server, quiet, keep_silence="true").json()["text"]


def test_models_list_it_and_other_routes_refuse_it(server: Serving) -> None:
    listed = httpx.get(server.url + "/v1/models").json()["data"]
    assert [(each["id"], each["kind"]) for each in listed] == [("whisper", "speech"), ("zh", "speech")]
    assert httpx.get(server.url + "/v1/models/zh").json() == listed[1]
    body = {"model": "whisper", "messages": [{"role": "user", "content": "hi"}]}
    chat = httpx.post(server.url + "/v1/chat/completions", json=body)
    assert problem(chat)[:2] == (400, "model")
    metrics = httpx.get(server.url + "/metrics").text
    assert 'vllm:request_success_total{finished_reason="stop",model_name="whisper"}' in metrics


def test_deadlines_are_kept_or_refused_with_the_sound_that_would_fit(
    server: Serving, recogniser: ScriptedRecogniser
) -> None:
    recogniser.window_s = 0.7
    try:
        late = post(server, deadline_ms=1200)
        status, _, message = problem(late)
        assert status == 429
        assert "about 30 s of it would fit" in message
        assert late.headers["retry-after"]
        assert "none of it would fit" in problem(post(server, deadline_ms=300, stream="true"))[2]
        kept = post(server, deadline_ms=20_000).json()["deadline"]
        assert kept["met"]
        assert kept["predicted_ms"] > 1400
        assert post(server, deadline_ms=1200, on_late="best_effort").json()["deadline"]["met"] is False
    finally:
        recogniser.window_s = 0.0


def test_a_client_that_leaves_stops_its_recording(server: Serving, recogniser: ScriptedRecogniser) -> None:
    recogniser.window_s, before = 0.5, recogniser.windows
    try:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(server.url + ROUTE, files={"file": ("s.wav", RECORDING)}, timeout=0.25)
        served = server.services.speech["whisper"]
        wait_until(lambda: not served.waiting)
        assert not served.promised
        assert served.sound_s == 0
        assert recogniser.windows - before <= 1
    finally:
        recogniser.window_s = 0.0


def test_a_server_that_stops_says_so_at_once(server: Serving, recogniser: ScriptedRecogniser) -> None:
    recogniser.window_s, answers = 5.0, list[httpx.Response]()
    asking = threading.Thread(target=lambda: answers.append(post(server)))
    asking.start()
    try:
        wait_until(lambda: len(server.services.operations.jobs) == 1)
        assert server.call(server.services.operations.jobs.cancel_all) == 1
        asking.join(3)
        assert answers[0].status_code == 503
        assert not len(server.services.operations.jobs)
    finally:
        recogniser.window_s = 0.0


def test_recordings_at_once_have_the_answers_of_each_alone(server: Serving) -> None:
    found: dict[int, str] = {}
    lengths = [3, 35, 7, 40, 12, 5]

    def ask(seconds: int) -> None:
        found[seconds] = post(server, wav(SPEECH[: seconds * SAMPLE_RATE], SAMPLE_RATE)).json()["text"]

    threads = [threading.Thread(target=ask, args=(seconds,)) for seconds in lengths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seconds in lengths:
        alone = Recording(SPEECH[: seconds * SAMPLE_RATE]).transcribe(ScriptedRecogniser(), TranscriptionOptions())
        assert found[seconds] == alone.text
