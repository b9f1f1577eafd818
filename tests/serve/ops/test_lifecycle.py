"""A server's life as a process: ready, draining, ending at once, killed and started again."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from child_server import Child, child_server

from miaotui.errors import RequestError
from miaotui.serve.http.listener import Tls, bind, is_loopback, url_of
from tiny_models import make_tiny_folder

LONG = {"prompt": "go on", "max_tokens": 200, "ignore_eos": True, "stream": True, "temperature": 1}
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = make_tiny_folder(tmp_path_factory.mktemp("models"), "llama")
    return f"tiny={folder}"


def begin(child: Child, body: dict[str, Any] = LONG) -> http.client.HTTPResponse:
    """A streamed answer of which the first bytes have come."""
    connection = child.connect()
    connection.request("POST", "/v1/completions", json.dumps(body))
    response = connection.getresponse()
    assert response.status == 200
    response.readline()
    return response


def answer_of(connection: http.client.HTTPConnection, path: str) -> bytes:
    connection.request("GET", path)
    return connection.getresponse().read()


# ---- sockets -------------------------------------------------------------------------------------


def test_a_taken_port_is_told_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(RequestError, match=f"port {port}.*--port"):
            bind("127.0.0.1", port)
    with pytest.raises(RequestError, match="--host"):
        bind("no-such-host.invalid", 0)


def test_urls_can_be_called() -> None:
    with bind("127.0.0.1", 0) as opened:
        port = opened.getsockname()[1]
        assert url_of(opened, "127.0.0.1", None) == f"http://127.0.0.1:{port}"
        assert url_of(opened, "0.0.0.0", None) == f"http://127.0.0.1:{port}"
        assert url_of(opened, "::", Tls(Path(), Path())) == f"https://[::1]:{port}"


@pytest.mark.parametrize(
    ("hosts", "local"),
    [("127.0.0.1 127.8.8.8 localhost ::1", True), ("0.0.0.0 :: 10.0.0.1 example.org localhost.example.org", False)],
)
def test_loopback(hosts: str, local: bool) -> None:
    assert {is_loopback(host) for host in hosts.split()} == {local}


def test_a_wrong_certificate_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text("no certificate")
    with pytest.raises(RequestError, match="PEM"):
        Tls(tmp_path / "cert.pem", tmp_path / "cert.pem").check()
    with pytest.raises(RequestError, match=r"missing\.pem"):
        Tls(tmp_path / "missing.pem", tmp_path / "cert.pem").check()


# ---- processes -----------------------------------------------------------------------------------


@posix
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_running_answers_finish_before_the_server_leaves(model: str, number: int) -> None:
    with child_server(model, "--drain-timeout", "20s") as child:
        idle = child.connect()
        idle.request("GET", "/ready")
        assert idle.getresponse().read() == b'{"status":"ready"}'
        response = begin(child)
        child.process.send_signal(number)
        text = response.read().decode()
        assert text.rstrip().endswith("data: [DONE]")
        assert '"finish_reason":"length"' in text.replace(" ", "")
        assert child.process.wait(20) == 0
        with pytest.raises(ConnectionError):
            child.connect(timeout=2).request("GET", "/ready")


@posix
@pytest.mark.slow
def test_late_answers_are_cancelled_and_end_in_order(tmp_path: Path) -> None:
    folder = make_tiny_folder(tmp_path, "llama", max_position_embeddings=32_768)
    endless = {**LONG, "max_tokens": 30_000}
    with child_server(f"tiny={folder}", "--drain-timeout", "300ms") as child:
        response = begin(child, endless)
        start_s = time.monotonic()
        child.process.send_signal(signal.SIGTERM)
        text = response.read().decode()
        assert child.process.wait(20) == 0
        assert time.monotonic() - start_s < 5
        assert "data: [DONE]" in text or "error" in text
        child.wait_for("1 requests did not finish in time")


@posix
@pytest.mark.slow
def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    folder = make_tiny_folder(tmp_path, "llama", max_position_embeddings=32_768)
    with child_server(f"tiny={folder}", "--drain-timeout", "60s") as child:
        response = begin(child, {**LONG, "max_tokens": 30_000})
        child.process.send_signal(signal.SIGTERM)
        child.wait_for("leaving")
        start_s = time.monotonic()
        child.process.send_signal(signal.SIGINT)
        assert child.process.wait(10) == 128 + signal.SIGINT
        assert time.monotonic() - start_s < 1
        response.close()


@pytest.mark.slow
def test_killed_at_any_moment_it_serves_again(model: str, tmp_path: Path) -> None:
    """Also while it packs and compiles: the home is new at first."""
    question = {"prompt": "hello", "max_tokens": 8, "ignore_eos": True, "temperature": 0}
    command = [sys.executable, "-m", "miaotui", "serve", "--port", "0", model]
    audit = tmp_path / "audit.jsonl"
    answers = set()
    for delay_s in (0.3, 0.6, 0.9, 1.2):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        time.sleep(delay_s)
        process.kill()
        process.wait()
    for _ in range(3):
        with child_server(model, "--audit-log", str(audit)) as child:
            answers.add(child.ask("/v1/completions", question)[1]["choices"][0]["text"])
            begin(child)
            child.process.kill()
    assert len(answers) == 1
    assert all(json.loads(line)["route"] == "/v1/completions" for line in audit.open())


@pytest.mark.slow
def test_https(model: str, tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    paths = ["-keyout", str(key), "-out", str(certificate)]
    made = subprocess.run([*words, *paths], capture_output=True, check=False)
    assert made.returncode == 0, made.stderr
    with child_server(model, "--tls-cert", str(certificate), "--tls-key", str(key)) as child:
        assert child.url.startswith("https://")
        assert child.ask("/health") == (200, {"status": "ok"})
        plain = http.client.HTTPConnection(child.url.partition("://")[2], timeout=5)
        with pytest.raises((OSError, http.client.HTTPException)):
            answer_of(plain, "/health")


@pytest.mark.slow
def test_keys_open_every_door_of_a_real_server(model: str, tmp_path: Path) -> None:
    keys, audit = tmp_path / "keys.txt", tmp_path / "audit.jsonl"
    made = subprocess.run(
        [sys.executable, "-m", "miaotui", "key", "alice", "--api-key-file", str(keys)],
        capture_output=True,
        text=True,
        check=True,
    )
    key = made.stdout.strip()
    assert key not in made.stderr + keys.read_text()
    options = ("--api-key-file", str(keys), "--audit-log", str(audit), "--log-format", "json")
    with child_server(model, *options) as child:
        closed = ("/v1/models", "/metrics", "/docs", "/openapi.json", "/nowhere", "/v1/completions")
        assert [child.ask(path)[0] for path in closed] == [401] * 6
        assert [child.ask(path)[0] for path in ("/health", "/ready")] == [200, 200]
        rights = {"Authorization": f"Bearer {key}"}
        secret = {"prompt": "the secret word is xyzzy", "max_tokens": 3, "user": "mallory"}
        assert child.ask("/v1/completions", secret, rights)[0] == 200
        assert child.ask("/nowhere/xyzzy?mallory=1", None, rights)[0] == 404
        status, text = child.ask("/metrics", None, rights)
        assert status == 200
        said = "".join(child.said)
    lines = [json.loads(line) for line in audit.open()]
    done = [line for line in lines if line["route"] == "/v1/completions" and line["status"] == 200]
    assert done[0]["key"] == "alice"
    assert done[0]["answer_tokens"] == 3
    for spoken in (said, text, audit.read_text()):
        for secret_word in ("xyzzy", "mallory", key):
            assert secret_word not in spoken


@pytest.mark.slow
def test_a_burst_of_vanishing_clients_leaves_nothing_behind(model: str) -> None:
    def vanish() -> None:
        connection = child.connect()
        connection.request("POST", "/v1/completions", json.dumps(LONG))
        connection.getresponse().readline()
        connection.close()

    with child_server(model) as child:
        threads = [threading.Thread(target=vanish) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        end_s = time.monotonic() + 10
        running = "?"
        while running != "0.0" and time.monotonic() < end_s:
            lines = child.ask("/metrics")[1].splitlines()
            gauges = [li for li in lines if li.startswith("vllm:num_requests_running")]
            running = gauges[0].split()[-1]
        assert running == "0.0"
        assert child.ask("/health")[0] == 200
