"""``miaotui serve`` and ``miaotui key``: options, the configuration file, what a person reads."""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest

from miaotui.backends.options import BackendName
from miaotui.cli import main
from miaotui.cli.options.parser import parse
from miaotui.cli.options.serve import duration, option_names, serve_options
from miaotui.cli.serve import options_from
from miaotui.errors import RequestError
from miaotui.serve.middleware.keys import KeyLimits, read_keys
from miaotui.serve.settings import ServeSettings


def options(*words: str) -> ServeSettings:
    return options_from(parse(["serve", *words]))


@pytest.fixture(autouse=True)
def _english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C")


def test_the_defaults_are_those_of_the_options() -> None:
    assert options() == ServeSettings(models=("smollm2-135m",))


def test_every_option_has_its_field() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    serve_options(parser)
    names = {action.dest for action in parser._actions} - {"config"}
    assert names == {field.name for field in fields(ServeSettings)} - {"models"}
    flags, others = option_names()
    assert len(flags | others) == len(names)


def test_options_become_values() -> None:
    found = options("a", "b=c", "--port=0", "--deadline", "800ms", "--share-prefix", "--kv=int8")
    assert found.models == ("a", "b=c")
    assert (found.port, found.deadline_s, found.share_prefix) == (0, 0.8, True)
    assert found.kv == "int8"
    assert [options(f"--backend={name}").backend for name in get_args(BackendName)] == ["cpu", "reference"]
    found = options("--no-docs", "--ping=2s", "--body-timeout", "1m", "--max-body-bytes=1024")
    assert (found.docs, found.ping_s, found.body_timeout_s, found.max_body_bytes) == (False, 2.0, 60.0, 1024)
    twice = options("--cors-origin", "http://a", "--cors-origin=http://b")
    assert twice.cors_origin == ("http://a", "http://b")


@pytest.mark.parametrize(("text", "seconds"), [("1s", 1), ("800ms", 0.8), ("1.5", 1.5), ("2m", 120), ("0.25 s", 0.25)])
def test_durations(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("word", ["", "0", "-1s", "1h", "nan", "inf", "1e3", "s", "9" * 20, "２s"])
def test_what_is_no_duration_fails(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        options(f"--deadline={word}")
    assert "800ms" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--prot=1"], "--port"),
        (["--port=70000"], "65,535"),
        (["--port=-1"], "65,535"),
        (["--kv=f8"], "int8"),
        (["--backend=gpu"], "reference"),
        (["--ping=0"], "800ms"),
        (["--max-body-bytes=1"], "1,024"),
        (["--log-level=loud"], "warning"),
        (["--api-key", "x"], "--api-key-file"),
        (["m"] * 17, "17"),
    ],
)
def test_wrong_options_name_the_remedy(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        options(*words)
    assert said in capsys.readouterr().err


# ---- what goes together --------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])
def test_other_machines_need_keys(host: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="--insecure"):
        options("--host", host).checked()
    options("--host", host, "--insecure").checked()
    options("--host", host, "--api-key-file", str(tmp_path / "keys")).checked()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--tls-cert", "x.pem"], "--tls-key"),
        (["--tls-key", "x.pem"], "both or neither"),
        (["--cors-origin", "chat.example"], "https://"),
        (["--cors-origin", "https://chat.example/path"], "without a path"),
        (["a", "a"], "two models"),
        (["x=a", "x=b"], "two models"),
        (["=a"], "NAME=MODEL"),
        (["a="], "NAME=MODEL"),
    ],
)
def test_what_does_not_go_together_fails(words: list[str], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        options(*words).checked()


def test_models_have_short_names(tmp_path: Path) -> None:
    (tmp_path / "small.gguf").touch()
    found = options(str(tmp_path / "small.gguf"), "owner/name", "x=owner/other").named_models
    assert list(found) == ["small", "owner/name", "x"]
    assert found["x"] == "owner/other"


# ---- the configuration file ----------------------------------------------------------------------


def test_a_file_says_what_the_command_line_leaves_out(tmp_path: Path) -> None:
    path = tmp_path / "serve.toml"
    path.write_text(
        'models = ["a", "b=c"]\nport = 9000\ndeadline = "1s"\nshare_prefix = true\ninsecure = false\n'
        'cors-origin = ["http://x"]\ndrain-timeout = 2\nlog_format = "json"\n'
        'no-docs = true\nping = "500ms"\nbody_timeout = 10\nmax-body-bytes = 65536\n'
    )
    found = options("--config", str(path))
    assert found == ServeSettings(
        models=("a", "b=c"),
        port=9000,
        deadline_s=1.0,
        share_prefix=True,
        cors_origin=("http://x",),
        drain_timeout_s=2.0,
        docs=False,
        ping_s=0.5,
        body_timeout_s=10.0,
        max_body_bytes=65536,
        log_format="json",
    )
    over = options("other", "--config", str(path), "--port=1", "--cors-origin=http://y")
    assert (over.models, over.port, over.cors_origin) == (("other",), 1, ("http://y",))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prot = 1\n", "did you mean port"),
        ("share_prefx = true\n", "did you mean share-prefix"),
        ('config = "x"\n', "unknown setting"),
        ('share-prefix = "yes"\n', "true or false"),
        ("port = true\n", "a text or a number"),
        ("port = [1, {}]\n", "a text or a number"),
        ("[table]\nx = 1\n", "unknown setting"),
        ("port = \n", "not TOML"),
        ("x = " + "[" * 5000, "not TOML"),
    ],
)
def test_a_wrong_file_is_told(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "serve.toml"
    path.write_text(text)
    with pytest.raises(RequestError, match=said):
        options("--config", str(path))


def test_values_of_a_file_are_checked_like_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "serve.toml"
    path.write_text("port = 70000\n")
    with pytest.raises(RequestError, match=r"serve\.toml"):
        options("--config", str(path))
    assert "65,535" in capsys.readouterr().err
    path.write_bytes(b"\xff")
    with pytest.raises(RequestError, match="not TOML"):
        options("--config", str(path))
    with pytest.raises(RequestError, match="cannot read"):
        options("--config", str(tmp_path / "missing.toml"))


# ---- keys ----------------------------------------------------------------------------------------


def test_key_prints_the_key_and_keeps_its_hash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "keys.txt"
    words = ["key", "alice", "--api-key-file", str(path), "--rpm=60", "--concurrent=2"]
    assert main(words) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("mt-")
    assert "only now" in printed.err
    assert printed.out.strip() not in path.read_text()
    assert read_keys(path)[0].limits == KeyLimits(requests_per_minute=60, concurrent=2)
    assert main(words) == 1
    assert "has a key named alice" in capsys.readouterr().err


# ---- failures before a model is loaded -----------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["no-such-model", "--port=0"], "no-such-model"),
        (["--host=0.0.0.0"], "--api-key-file"),
        (["--host=no-such-host.invalid", "--insecure"], "--host"),
    ],
)
def test_serve_fails_in_one_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIAOTUI_OFFLINE", "1")
    assert main(["serve", *words]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_missing_libraries_are_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "starlette.middleware", None)
    monkeypatch.delitem(sys.modules, "miaotui.serve.start", raising=False)
    monkeypatch.setenv("MIAOTUI_OFFLINE", "1")
    assert main(["serve", "no-such-model", "--port=0"]) == 1
    said = capsys.readouterr().err
    assert "starlette is not installed" in said
    assert "pip install miaotui" in said
