"""``miaotui bench`` on a tiny model: tables with quality, one JSON line, reports, and options that mean nothing."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from miaotui.cli import main
from miaotui.kernels.runtime import compiled
from tiny_models import make_tiny_folder

SHORT = ["--input-tokens", "3-5", "--output-tokens", "4-6", "--seed", "3"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Packed weights and bases go to a folder of their own; compiled kernels are used where they are."""
    folder = tmp_path_factory.mktemp("home")
    compiled.cache_folder()  # remembered for the rest of the process
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIAOTUI_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def model(home: Path) -> str:
    return str(make_tiny_folder(home, "llama"))


def result(capsys: pytest.CaptureFixture[str]) -> tuple[str, dict[str, Any]]:
    out = capsys.readouterr().out.rstrip()
    return out, json.loads(out.rsplit("\n", 1)[1])


def test_a_model_is_measured_with_its_quality(model: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["--streams", "1,2", "--repetitions", "1", "--prompt-tokens", "20", "--answer-tokens", "160"]
    words += ["--threads", "1"]
    assert main(["bench", "base", model]) == 0
    assert "places" in capsys.readouterr().out
    report = tmp_path / "report.html"
    assert main(["bench", model, *words, "--html", str(report)]) == 0
    out, found = result(capsys)
    assert "KL from float32" in out
    assert 0 <= found["quality"]["kl_nats"] < 1
    assert 0.5 < found["quality"]["same_top"] <= 1
    rows = {(each["workload"], each["way"]): each for each in found["series"]}
    assert ("prefill, 20 tokens", "one token a pass") in rows
    for way in ("one token a pass", "drafts"):
        assert rows["decode, 2 streams", way]["rate"] > 0
        assert 0 < rows["decode, 2 streams", way]["share"] < 2
    assert rows["decode, 1 stream", "one token a pass"]["tokens_per_pass"] == [1.0]
    assert report.read_text().startswith("<!doctype html>")


def test_a_load_on_the_engine(home: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    report, model = tmp_path / "report.html", str(make_tiny_folder(home, "llama", seed=1))
    words = [
        "--rate",
        "20,40",
        "--duration",
        "0.5",
        "--threads",
        "1",
        "--html",
        str(report),
        "--e2e-ms",
        "5000",
        *SHORT,
    ]
    assert main(["bench", "load", model, *words]) == 0
    out, found = result(capsys)
    assert [each["rate_per_s"] for each in found["loads"]] == [20, 40]
    for each in found["loads"]:
        assert each["asked"] == each["answered"] == each["in_time"]
        assert each["latencies"]["ttft"]["p50_ms"] > 0
    assert "goodput: whole answers within E2E 5000 ms" in out
    assert "quality not measured" in out
    assert found["quality"] is None
    assert "Answers over load" in report.read_text()


def test_scenarios(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "load", model, "--scenario", "offline", "--requests", "9", "--threads", "1", *SHORT]) == 0
    out, found = result(capsys)
    assert found["scenario"]["value"] > 0
    assert "offline: all at once" in out
    assert "9 requests: valid" in out
    words = ["--scenario", "single-stream", "--duration", "0.2", "--threads", "1", *SHORT]
    assert main(["bench", "load", model, *words]) == 0
    out, found = result(capsys)
    assert "single-stream: p90 latency" in out


def test_two_ways_are_compared_in_pairs(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    sides = [f"{model},threads=1,drafts=off", f"{model},threads=1,drafts=on"]
    assert main(["bench", "compare", *sides, "--pairs", "3", *SHORT, "--ignore-eos"]) == 0
    out, found = result(capsys)
    assert {each["metric"] for each in found["ratios"]} == {"TTFT [ms]", "TPOT [ms]", "E2E [ms]", "tokens/s"}
    pairs = {each["metric"]: each["pairs"] for each in found["ratios"]}
    assert pairs["TTFT [ms]"] == pairs["E2E [ms]"] == pairs["tokens/s"] == 3
    assert "95% interval" in out


@pytest.mark.parametrize(
    ("module", "words", "key"),
    [
        ("loads", ["load", "{model}", "--rate", "20,20,20", "--duration", "0.2", *SHORT], "loads"),
        ("pairs", ["compare", "{model}", "{model},drafts=off", "--pairs", "9", *SHORT], "ratios"),
        ("model", ["{model}", "--streams", "1,2", "--prompt-tokens", "20", "--answer-tokens", "160"], "series"),
    ],
)
def test_an_interrupt_leaves_what_was_measured(
    module: str,
    words: list[str],
    key: str,
    model: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    notes: list[str] = []

    def interrupt(text: str) -> None:
        notes.append(text)
        if len(notes) == 2:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(f"miaotui.cli.bench.{module}.note", interrupt)
    assert main(["bench", *(word.format(model=model) for word in words)]) == 130
    out, found = result(capsys)
    assert "interrupted: the numbers are of what was measured" in out
    assert found["interrupted"]
    assert {"loads": len(found[key]), "ratios": found[key][0].get("pairs"), "series": len(found[key])}[key] == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["load", "x", "--pairs", "3"], "--pairs means nothing to miaotui bench load"),
        (["x", "--rate", "3"], "--rate means nothing to miaotui bench"),
        (["serve", "http://127.0.0.1:9", "--no-speculate"], "--no-speculate means nothing"),
        (["serve"], "bench serve URL"),
        (["compare", "x"], "two models or servers"),
        (["x", "y"], "serve, load, compare"),
        (["serve", "http://127.0.0.1:1", "--html", "none/report.html"], "make it first"),
        (["x", "--html", "."], "name a file in it"),
        (["compare", "x,drafts=maybe", "y"], "drafts must be on or off"),
        (["compare", "x,colour=red", "y"], "no option 'colour'"),
        (["compare", "http://127.0.0.1:9", "http://127.0.0.1:9"], "one server on both sides"),
        (["serve", "http://127.0.0.1:9"], "does not answer"),
        (["serve", "ftp://127.0.0.1:9", "--model", "m"], "is not the address of a server"),
        (["serve", "http://127.0.0.1:9", "--model", "m", "--trace", "x"], "belong together"),
        (["serve", "http://127.0.0.1:9", "--model", "m", "--scenario", "server"], "--e2e-ms"),
        (["serve", "http://127.0.0.1:9", "--model", "m", "--prompts", "missing"], "cannot be read"),
    ],
)
def test_what_makes_no_sense_is_said(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *words]) == 1
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("option", [["--rate", "0"], ["--input-tokens", "9-3"], ["--streams", "0"], ["--cv", "x"]])
def test_options_out_of_range(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *option]) == 2
    assert option[0] in capsys.readouterr().err


def test_a_server_that_is_gone_leaves_its_counts(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model", "m", "--rate", "20", "--duration", "0.3", *SHORT]
    assert main(["bench", "serve", "http://127.0.0.1:9", *words]) == 1
    out, found = result(capsys)
    (load,) = found["loads"]
    assert load["asked"] == load["failed"] > 0
    assert "x unreachable" in out
    assert "quality not measured" in out
