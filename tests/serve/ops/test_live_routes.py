"""A microphone over a WebSocket: texts as they are said, options, keys, limits, departures."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from serving import Serving, serving
from starlette.middleware import Middleware
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from miaotui.serve.middleware.access import Access, AccessPolicy
from miaotui.serve.middleware.keys import KeyLimits, Keyring, add_key
from miaotui.serve.models import ServedModels
from miaotui.serve.ops.operations import Operations
from miaotui.serve.speech.models import SpeechModels
from miaotui.speech.live import LiveSpeech
from miaotui.speech.transcript import SAMPLE_RATE, Samples
from scripted_speech import ScriptedRecogniser, bursts, wait_until
from tiny_engine import settings_in

STREAM = bursts("..ss...sss...")


def sound(samples: Samples) -> bytes:
    return np.rint(32767 * np.clip(samples, -1, 1)).astype("<i2").tobytes()


@pytest.fixture(scope="module")
def recogniser() -> ScriptedRecogniser:
    return ScriptedRecogniser()


def parts_of(recogniser: ScriptedRecogniser) -> Any:
    def parts(_: ServedModels) -> Mapping[str, Any]:
        speech = SpeechModels({"whisper": recogniser})
        models = ServedModels(speech_names=speech.keys)
        return {"models": models, "speech": speech, "operations": Operations(models)}

    return parts


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, recogniser: ScriptedRecogniser) -> Iterator[Serving]:
    with serving({}, settings_in(tmp_path_factory.mktemp("live")), parts=parts_of(recogniser)) as running:
        yield running


def address(server: Serving, path: str = "/v1/audio/live") -> str:
    return server.url.replace("http", "ws", 1) + path


def messages(socket: ClientConnection) -> list[dict[str, Any]]:
    """All messages up to the end of the connection."""
    found = []
    try:
        while True:
            found.append(json.loads(socket.recv(timeout=10)))
    except ConnectionClosed:
        return found


def heard(server: Serving, content: bytes, step: int = 3200, **start: Any) -> list[dict[str, Any]]:
    with connect(address(server)) as socket:
        with suppress(ConnectionClosed):  # after an error
            if start:
                socket.send(json.dumps({"type": "start", **start}))
            for place in range(0, len(content), step):
                socket.send(content[place : place + step])
            socket.send('{"type": "end"}')
        return messages(socket)


def finals(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each for each in found if each["type"] == "final"]


def test_each_utterance_has_its_final_text_in_order(server: Serving) -> None:
    ready, *rest, done = heard(server, sound(STREAM))
    assert ready == {"type": "ready", "model": "whisper", "sample_rate": SAMPLE_RATE}
    assert done == {"type": "done", "duration": 13.0}
    live = LiveSpeech()
    utterances = live.push(np.frombuffer(sound(STREAM), "<i2").astype(np.float32) / 32768) + live.flush()
    expected = [(round(each.start_s, 2), round(each.end_s, 2)) for each in utterances]
    assert [(each["start"], each["end"]) for each in finals(rest)] == expected
    assert finals(rest)[0]["language"] == "en"
    assert all(each["text"].endswith("transcribe.") for each in finals(rest))


def test_plain_http_is_told_to_upgrade(server: Serving) -> None:
    answer = httpx.get(server.url + "/v1/audio/live")
    assert answer.status_code == 426
    assert answer.headers["upgrade"] == "websocket"
    assert "ws://" in answer.json()["error"]["message"]


def test_final_texts_do_not_depend_on_how_the_sound_comes(server: Serving) -> None:
    content = sound(STREAM)
    assert finals(heard(server, content)) == finals(heard(server, content, step=100_000))
    assert finals(heard(server, content, partial=False)) == finals(heard(server, content, step=640))


def test_partial_texts_come_before_the_final_one(server: Serving, recogniser: ScriptedRecogniser) -> None:
    with connect(address(server)) as socket:
        for second in np.split(bursts("ssss"), 4):
            socket.send(sound(second))
        assert json.loads(socket.recv(timeout=10))["type"] == "ready"
        partial = json.loads(socket.recv(timeout=10))
        assert partial["type"] == "partial"
        assert partial["start"] < 0.5
        socket.send('{"type": "end"}')
        rest = messages(socket)
    assert [each["type"] for each in rest if each["type"] != "partial"] == ["final", "done"]
    assert [each["type"] for each in rest][-2:] == ["final", "done"]
    assert "partial" not in {each["type"] for each in heard(server, sound(STREAM), partial=False)}


def test_other_rates_are_resampled(server: Serving) -> None:
    low = sound(STREAM[::2])
    found = finals(heard(server, low, sample_rate=8000))
    whole = finals(heard(server, sound(STREAM)))
    assert len(found) == len(whole)
    for one, other in zip(found, whole, strict=True):
        assert one["start"] == pytest.approx(other["start"], abs=0.1)


@pytest.mark.parametrize(
    ("start", "param"),
    [
        ({"language": "xx"}, "language"),
        ({"model": "none"}, "model"),
        ({"sample_rate": 1}, "sample_rate"),
        ({"colour": "blue"}, "colour"),
        ({"beam_size": 99}, "beam_size"),
    ],
)
def test_options_that_are_wrong_are_named(server: Serving, start: dict[str, Any], param: str) -> None:
    (error,) = heard(server, b"", **start)
    assert (error["type"], error["error"]["param"]) == ("error", param)


@pytest.mark.parametrize("message", ["no json", "[]", '{"type": "what"}', b"\0\0\0"])
def test_messages_that_cannot_be_read_end_the_connection(server: Serving, message: str | bytes) -> None:
    with connect(address(server)) as socket:
        socket.send(b"")
        with suppress(ConnectionClosed):
            socket.send(message)
        ready, error = messages(socket)
    assert ready["type"] == "ready"
    assert error["type"] == "error"
    assert not server.services.speech["whisper"].listening


def test_a_message_that_is_too_large_ends_the_connection(server: Serving) -> None:
    with connect(address(server)) as socket:
        with suppress(ConnectionClosed):
            socket.send(b"\0" * (3 << 20))
        assert [each["type"] for each in messages(socket)] in ([], ["ready"])
    assert httpx.get(server.url + "/health").status_code == 200


def test_a_client_that_leaves_is_forgotten(server: Serving, recogniser: ScriptedRecogniser) -> None:
    recogniser.window_s = 0.3
    try:
        with connect(address(server)) as socket:
            socket.send(sound(bursts("sss")))
            socket.recv(timeout=10)
            socket.close_socket()
        wait_until(lambda: not server.services.speech["whisper"].listening)
        assert not len(server.services.operations.jobs)
    finally:
        recogniser.window_s = 0.0


def test_other_paths_speak_no_websocket(server: Serving) -> None:
    with pytest.raises(InvalidStatus) as refused, connect(address(server, "/v1/models")):
        pass
    assert refused.value.response.status_code in (403, 404)


def connected(url: str, **options: Any) -> Any:
    """A connection, as soon as the server has forgotten the one before: a client knows of its end a moment sooner."""
    end_s = time.monotonic() + 10
    while True:
        try:
            return connect(url, **options)
        except InvalidStatus as refused:
            if refused.response.status_code != 429 or time.monotonic() > end_s:
                raise
            time.sleep(0.005)


def test_keys_origins_and_limits_hold_for_connections_too(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    key = add_key(file, "ann", KeyLimits(concurrent=1))
    policy = AccessPolicy(frozenset({"localhost"}))
    layers = [Middleware(Access, policy=policy, keyring=Keyring(file))]
    with serving({}, settings_in(tmp_path), parts=parts_of(ScriptedRecogniser()), layers=layers) as running:
        url = address(running)

        def status(**options: Any) -> int:
            with pytest.raises(InvalidStatus) as refused, connect(url, **options):
                pass
            return refused.value.response.status_code

        assert status() == 401
        assert status(subprotocols=["realtime", "openai-insecure-api-key.wrong"]) == 401
        shown = {"Authorization": f"Bearer {key}"}
        assert status(additional_headers=shown, origin="https://elsewhere.example") == 403
        with connect(url, subprotocols=["realtime", f"openai-insecure-api-key.{key}"]) as socket:  # type: ignore[list-item]
            assert socket.subprotocol == "realtime"
            assert status(additional_headers=shown) == 429
            socket.send('{"type": "end"}')
            assert [each["type"] for each in messages(socket)] == ["ready", "done"]
        with connected(url, additional_headers=shown, origin=running.url) as socket:
            socket.send('{"type": "end"}')
            assert len(messages(socket)) == 2
