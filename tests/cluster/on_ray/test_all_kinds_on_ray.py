"""A cluster of a decoder, an encoder, a speech model and replicas of indexes; what serves each of them is killed."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from raylets import OPTIONS, free_port, is_ready, raylets

from miaotui.backends.options import EncoderOptions
from miaotui.cluster.cluster_file import ClusterFile
from miaotui.encoder import Encoder
from miaotui.encoders.runtime import run_encoder
from sound_files import wav
from tiny_encoder_models import make_encoder_folder
from tiny_models import make_tiny_folder
from tiny_whisper import whisper_folder

pytest.importorskip("ray", reason="Ray is not installed: pip install 'miaotui[cluster]'")
pytestmark = [pytest.mark.cluster, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

TEXTS = ["the cat sat on the mat", "ana is good", "paris"]


def ask(port: int, path: str, body: Any = None, method: str = "POST", kind: str = "application/json") -> Any:
    """The answer of one request; its status where that is none of success."""
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    asked = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, {"Content-Type": kind}, method=method)
    try:
        with urllib.request.urlopen(asked, timeout=120) as answer:
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code


def heard(port: int) -> Any:
    time_s = np.arange(16_000) / 16_000
    sound = wav((0.5 * np.sin(2 * np.pi * 300 * time_s)).astype(np.float32), 16_000)
    edge = "x" * 20
    head = f'--{edge}\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'.encode()
    body = head + sound + f"\r\n--{edge}--\r\n".encode()
    answer = ask(port, "/v1/audio/transcriptions", body, kind=f"multipart/form-data; boundary={edge}")
    return answer if isinstance(answer, int) else answer["text"]


def vectors(port: int) -> Any:
    found = ask(port, "/v1/embeddings", {"model": "vectors", "input": TEXTS, "encoding_format": "float"})
    return [each["embedding"] for each in found["data"]]


def found_in(port: int, query: str) -> Any:
    answer = ask(port, "/v1/indexes/cluster-test-notes/search", {"query": query})
    return answer if isinstance(answer, int) else [each["id"] for each in answer["data"]]


def test_encoders_speech_and_indexes_go_on_when_what_serves_them_dies(tmp_path: Path) -> None:
    from miaotui.cluster.on_ray import run  # noqa: PLC0415  (imports Ray)

    encoder = make_encoder_folder(tmp_path)
    models = {
        "tiny": {"model": str(make_tiny_folder(tmp_path, "llama")), "cpus": 0.5, **OPTIONS, "context": 256},
        "vectors": {"model": str(encoder), "cpus": 0.25, "replicas": 2, "pooling": "mean"},
        "speech": {"model": str(whisper_folder(tmp_path / "whisper", seed=3)), "cpus": 0.25},
    }
    with Encoder(*run_encoder(encoder, EncoderOptions(threads=1, pooling="mean")), owns_loop=True) as alone:
        right = alone.embed(TEXTS, prompt=None).tolist()
    with raylets() as address:
        values = {"address": address, "port": free_port(), "models": models}
        cluster = ClusterFile.of({**values, "indexes": {"replicas": 2, "cpus": 0.25}})
        run.up(cluster)
        port = cluster.port
        listed = {each["id"] for each in ask(port, "/v1/models", method="GET")["data"]}
        assert {"tiny", "vectors", "speech"} <= listed
        assert vectors(port) == right
        text = heard(port)
        assert isinstance(text, str)
        documents = [{"id": f"d{number}", "body": f"{word} and more"} for number, word in enumerate(TEXTS)]
        assert ask(port, "/v1/indexes/cluster-test-notes/documents", {"documents": documents})["added"] == 3
        assert found_in(port, "cat") == ["d0"]
        state = run.state(address)
        assert set(state["pools"]) == {"tiny", "vectors", "speech", "indexes"}
        for name in ("vectors", "indexes", "speech"):  # one replica of each
            os.kill(next(iter(state["pools"][name]["replicas"].values()))["process"], signal.SIGKILL)
        assert vectors(port) == right
        assert found_in(port, "paris") == ["d2"]
        assert heard(port) == text, "the only replica was replaced"
        assert ask(port, "/v1/indexes/cluster-test-notes/documents/d1", method="DELETE")["deleted"]
        os.kill(run.state(address)["process"], signal.SIGKILL)  # the ingress, which writes the index
        end_s = time.monotonic() + 90
        while not is_ready(port) and time.monotonic() < end_s:
            time.sleep(0.2)
        assert sorted(found_in(port, "cat OR ana OR paris")) == ["d0", "d2"], "what was answered is there"
        assert vectors(port) == right
        run.scale(address, {"vectors": 1, "indexes": 1})
        assert found_in(port, "cat") == ["d0"]
        assert vectors(port) == right
        assert run.down(address) == 0
