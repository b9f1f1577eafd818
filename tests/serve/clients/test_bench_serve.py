"""``miaotui bench serve`` against our own server over a tiny model: counts, promises, refusals, a sweep."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import Serving, serving

from miaotui.cli import main
from tiny_engine import settings_in
from tiny_models import make_tiny_folder

SHORT = ["--input-tokens", "3-5", "--output-tokens", "4-6", "--seed", "3"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("bench")
    with serving({"tiny": make_tiny_folder(folder, "llama")}, settings_in(folder)) as found:
        yield found


def bench(server: Serving, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[str, dict[str, Any]]:
    assert main(["bench", "serve", server.url, *words, *SHORT]) == 0
    out = capsys.readouterr().out.rstrip()
    return out, json.loads(out.rsplit("\n", 1)[1])


def test_an_open_load(server: Serving, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    words = ("--rate", "10,30", "--arrivals", "gamma", "--duration", "0.6", "--html", str(report))
    out, found = bench(server, capsys, *words)
    assert found["model"] == "tiny"
    for load in found["loads"]:
        assert load["asked"] == load["answered"]
        assert load["wrong_usage"] == 0
        assert load["tokens"] > 0
    assert "quality not measured" in out
    assert "gamma arrivals (cv 2)" in out
    assert "Latency over load" in report.read_text()
    assert server.in_flight() == 0


@pytest.mark.parametrize("route", ["chat", "completions"])
def test_a_closed_load_on_both_routes(route: str, server: Serving, capsys: pytest.CaptureFixture[str]) -> None:
    _, found = bench(server, capsys, "--streams", "1,2", "--duration", "0.2", "--route", route)
    assert [each["rate_per_s"] for each in found["loads"]] == [None, None]
    assert all(each["answered"] == each["asked"] > 0 for each in found["loads"])


def test_promises_and_refusals(server: Serving, capsys: pytest.CaptureFixture[str]) -> None:
    _, found = bench(server, capsys, "--rate", "10", "--duration", "0.5", "--deadline-ms", "30000")
    (load,) = found["loads"]
    assert load["promised"] == load["answered"] == load["asked"]
    assert load["promises_kept"] == load["in_time"] == load["asked"]

    words = ["bench", "serve", server.url, "--rate", "10", "--duration", "0.5", "--deadline-ms", "0.01", *SHORT]
    assert main(words) == 1
    out = capsys.readouterr().out.rstrip()
    (load,) = json.loads(out.rsplit("\n", 1)[1])["loads"]
    assert load["refused"] == load["asked"] > 0
    assert "x refused 429 deadline_unattainable" in out


def test_a_sweep_ends_at_saturation(server: Serving, capsys: pytest.CaptureFixture[str]) -> None:
    out, found = bench(server, capsys, "--duration", "0.3", "--e2e-ms", "1000")
    rates = [each["rate_per_s"] for each in found["loads"]]
    assert rates == sorted(rates)
    assert rates[0] > 0
    assert "saturated" in out
