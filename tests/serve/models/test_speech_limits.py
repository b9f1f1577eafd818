"""Bounds of a served speech model: promises beside promises, sound in memory, recordings and microphones at once."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving import Serving, serving
from websockets.sync.client import connect

from miaotui.errors import OverloadedError
from miaotui.serve.models import ServedModels
from miaotui.serve.ops.operations import Operations
from miaotui.serve.speech import models
from miaotui.serve.speech.models import ServedSpeech, SpeechModels
from miaotui.speech.audio import AudioLimits
from miaotui.speech.recordings import Recording
from miaotui.speech.transcript import SAMPLE_RATE
from scripted_speech import ScriptedRecogniser, bursts, wait_until
from sound_files import wav
from tiny_engine import settings_in

SECOND = wav(bursts("s"), SAMPLE_RATE)
HALF_MINUTE = wav(bursts("s" * 25), SAMPLE_RATE)
WORK = st.tuples(st.floats(0, 50), st.floats(0, 20))


@dataclass
class Work:
    due_s: float
    left_s: float


@pytest.fixture
def server(tmp_path: Any) -> Iterator[Serving]:
    def parts(_: ServedModels) -> Mapping[str, Any]:
        speech = SpeechModels({"whisper": ScriptedRecogniser()})
        found = ServedModels(speech_names=speech.keys)
        return {"models": found, "speech": speech, "operations": Operations(found)}

    with serving({}, settings_in(tmp_path), parts=parts) as running:
        yield running


def post(server: Serving, content: bytes, **fields: Any) -> httpx.Response:
    url = f"{server.url}/v1/audio/transcriptions"
    return httpx.post(url, files={"file": ("sound.wav", content)}, data=fields, timeout=30)


def scripted(server: Serving) -> ScriptedRecogniser:
    recogniser = server.services.speech["whisper"].recogniser
    assert isinstance(recogniser, ScriptedRecogniser)
    return recogniser


def late_s(given_s: list[tuple[float, float]], new: tuple[float, float]) -> float:
    served = ServedSpeech("whisper", ScriptedRecogniser(), promised=[Work(*each) for each in given_s])
    found = served.late_s(*new, now_s=0.0)
    served.close()
    return found


def test_work_is_late_behind_what_is_due_before_it() -> None:
    assert late_s([], (5, 3)) == -2
    assert late_s([(4, 3)], (5, 3)) == 1
    assert late_s([(60, 50)], (20, 5)) == -5  # the other one has the time
    assert late_s([(60, 50)], (20, 15)) == 5  # the other one has not
    assert late_s([(10, 50)], (100, 5)) == -45  # what is broken already refuses nothing


@given(st.lists(WORK, max_size=6), WORK)
def test_a_promise_breaks_no_other(given_s: list[tuple[float, float]], new: tuple[float, float]) -> None:
    def kept(work: list[tuple[float, float]]) -> bool:
        done = 0.0
        return all((done := done + left) <= due for due, left in sorted(work))

    if kept(given_s):
        assert (late_s(given_s, new) <= 1e-9) == kept([*given_s, (new[0] + 1e-9, new[1])])


def test_promises_beside_each_other_are_kept_or_not_given(server: Serving) -> None:
    scripted(server).window_s = 1.0
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(post, server, HALF_MINUTE, deadline_ms=1900)
        wait_until(lambda: len(server.services.speech["whisper"].promised) == 1)
        refused = post(server, HALF_MINUTE, deadline_ms=1900)
        later = post(server, HALF_MINUTE, deadline_ms=20_000)
        assert refused.status_code == 429
        assert "beside what is promised already" in refused.json()["error"]["message"]
        assert later.json()["deadline"]["met"]
        assert first.result().json()["deadline"]["met"]
    assert not server.services.speech["whisper"].promised


def test_no_recording_waits_for_the_thread_of_another(server: Serving) -> None:
    scripted(server).window_s = 1.5
    served = server.services.speech["whisper"]
    with ThreadPoolExecutor(20) as pool:
        answers = [pool.submit(post, server, SECOND) for _ in range(20)]
        wait_until(lambda: served.waiting == 20)
        texts = {each.result().json()["deadline"]["took_ms"] < 2900 for each in answers}
    assert texts == {True}


def test_options_are_checked_where_nothing_is_said_and_before_anything_is_counted(server: Serving) -> None:
    silence = wav(bursts("..."), SAMPLE_RATE)
    for content in (silence, SECOND):
        for fields in ({}, {"stream": "true"}, {"deadline_ms": "5000"}):
            wrong = post(server, content, language="xx", **fields)
            assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "language")
    assert "vllm:request_success_total{" not in httpx.get(server.url + "/metrics").text
    assert post(server, silence, language="de", response_format="verbose_json").json()["language"] == "de"


def test_sound_in_memory_is_bounded_however_many_ask_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "MAX_WAITING_SOUND_S", 2.5)
    served = ServedSpeech("whisper", ScriptedRecogniser())
    decoding: list[Future[Recording]] = [served.decode(SECOND, AudioLimits(), keep_silence=False) for _ in range(10)]
    taken = [each.result() for each in decoding if each.exception() is None]
    assert len(taken) == 3
    assert all(isinstance(each.exception(), OverloadedError) for each in decoding[3:])
    for each in taken:
        served.drop(each)
    assert served.sound_s == 0
    served.close()


def test_a_client_that_leaves_while_its_recording_is_decoded_gives_its_memory_back(
    server: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, began, read = threading.Event(), threading.Event(), models.read_audio

    def slowly(*arguments: Any) -> Any:
        began.set()
        go_on.wait(10)
        return read(*arguments)

    monkeypatch.setattr(models, "read_audio", slowly)
    served = server.services.speech["whisper"]
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.url}/v1/audio/transcriptions", files={"file": ("s.wav", SECOND)}, timeout=0.3)
    assert began.wait(5)
    wait_until(lambda: not served.waiting)
    go_on.set()
    assert post(server, SECOND).status_code == 200
    wait_until(lambda: served.sound_s == 0)


def test_microphones_that_are_open_leave_recordings_their_places(
    server: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "MAX_LISTENING", 1)
    url = server.url.replace("http", "ws", 1) + "/v1/audio/live"
    with connect(url) as first, connect(url) as second:
        first.send('{"type": "start"}')
        assert json.loads(first.recv(timeout=10))["type"] == "ready"
        second.send('{"type": "start"}')
        assert json.loads(second.recv(timeout=10))["error"]["code"] == "overloaded"
        assert post(server, SECOND).status_code == 200
    metrics = httpx.get(server.url + "/metrics").text
    assert 'miaotui_refused_total{model_name="whisper",reason="overload"} 1' in metrics
    wait_until(lambda: not server.services.speech["whisper"].listening)


def test_a_listener_that_leaves_is_noticed_while_its_utterance_is_transcribed(server: Serving) -> None:
    scripted(server).window_s = 8.0
    served = server.services.speech["whisper"]
    samples = (32767 * bursts("sss")).astype("<i2").tobytes()
    with connect(server.url.replace("http", "ws", 1) + "/v1/audio/live") as socket:
        socket.send('{"type": "start", "partial": false}')
        socket.send(samples)
        socket.send('{"type": "end"}')
        wait_until(lambda: len(server.services.operations.jobs) == 1)
        socket.close_socket()
    wait_until(lambda: not served.listening, 3)
    assert not len(server.services.operations.jobs)
    assert 'finished_reason="abort",model_name="whisper"} 1' in httpx.get(server.url + "/metrics").text
