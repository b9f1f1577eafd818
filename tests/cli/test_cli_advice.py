"""Advice on models: times estimated from measured speeds, and the model named for a language."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_cli_doctor import machine

from miaotui.cli import main
from miaotui.cli.advice.choice import CHINESE, ENGLISH, advised, best_estimate, estimate, is_known, lacks_chinese
from miaotui.cli.advice.machine_speeds import Speeds, keep_speeds, known_speeds
from miaotui.cli.run import note_language
from miaotui.config import Settings
from miaotui.hub.catalog import CATALOG
from miaotui.hub.catalog.shapes import SHAPES
from miaotui.kernels.linear.formats import Format

GB = 10**9
SLOW, FAST = Speeds(2, 20.0, 180.0), Speeds(64, 300.0, 6000.0)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """An empty home without any model, and English messages."""
    for name, folder in (("MIAOTUI_HOME", "home"), ("HF_HUB_CACHE", "hf"), ("MODELSCOPE_CACHE", "ms")):
        monkeypatch.setenv(name, str(tmp_path / folder))
    monkeypatch.setenv("LC_ALL", "C")
    return Settings.from_env()


def test_an_estimate_is_prefill_and_decode() -> None:
    shape = SHAPES["smollm2-135m"]
    found = estimate(shape, Format.Q4, SLOW, 8 * GB)
    weights = (shape.layer_weights + shape.head_weights) * Format.Q4.bits_per_weight / 8
    assert found.seconds > 49 * weights / 20e9 + 500 * shape.layer_weights / 180e9
    assert found.in_time
    assert not estimate(shape, Format.Q4, SLOW, GB // 10).in_time, "it does not fit"
    assert estimate(shape, Format.Q8, SLOW, None).seconds > found.seconds


def test_estimates_grow_with_the_model_and_shrink_with_speed() -> None:
    sizes = sorted(SHAPES.values(), key=lambda shape: shape.layer_weights)
    assert estimate(sizes[-1], Format.Q4, SLOW, None).seconds > 10 * estimate(sizes[0], Format.Q4, SLOW, None).seconds
    for shape in sizes:
        assert estimate(shape, Format.Q4, FAST, None).seconds < estimate(shape, Format.Q4, SLOW, None).seconds


def test_four_bits_are_named_where_only_they_are_in_time() -> None:
    forms = {model.name: best_estimate(model, Speeds(8, 60.0, 1500.0), None) for model in CATALOG.values()}
    assert any(found and found.in_time and found.format is Format.Q8 for found in forms.values())
    only_small = [name for name, found in forms.items() if found and found.in_time and found.format is Format.Q4]
    assert any(not CATALOG[name].files for name in only_small)
    assert forms["embedder"] is None


@pytest.mark.parametrize("code", [ENGLISH, CHINESE])
def test_the_largest_in_time_is_advised(settings: Settings, code: str) -> None:
    slow, fast = (advised(code, speeds, None) for speeds in (SLOW, FAST))
    assert code in slow.languages
    assert code in fast.languages
    assert fast.parameters > slow.parameters
    for model in (slow, fast, advised(code, None, None)):
        assert is_known(model)
        assert not model.licence.explicit, "what has terms to accept is not advised before it is here"
    assert settings.cache_dir.exists() is False


def test_what_is_here_is_advised_before_speeds_are_known(settings: Settings) -> None:
    assert advised(CHINESE, None, None).name != "qwen2.5-coder-0.5b"
    file = CATALOG["qwen2.5-coder-0.5b"].files[0]
    path = settings.cache_dir / "models" / "qwen2.5-coder-0.5b" / file.filename
    path.parent.mkdir(parents=True)
    with path.open("wb") as out:
        out.truncate(file.size_bytes)
    assert advised(CHINESE, None, None).name == "qwen2.5-coder-0.5b"


def test_speeds_are_those_of_this_machine_alone(settings: Settings) -> None:
    cpu = machine()
    assert known_speeds(cpu, settings) is None
    keep_speeds(SLOW, cpu, settings)
    assert known_speeds(cpu, settings) == SLOW
    assert known_speeds(machine(quota=1.0), settings) is None
    (settings.cache_dir / "speeds.json").write_text(json.dumps({"machine": 3, "read_gb_per_s": "x"}))
    assert known_speeds(cpu, settings) is None


def test_models_are_marked_once_speeds_are_known(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cpu = machine()
    monkeypatch.setattr("miaotui.kernels.platform.cpu.probe", lambda: cpu)
    keep_speeds(SLOW, cpu, settings)
    assert main(["models"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert "yes (q4)" in lines["smollm2-135m"]
    assert " s (q" in lines["qwen3-4b"]
    assert main(["models", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["smollm2-135m"]["answer"]["in_time"] is True
    assert rows["qwen3-4b"]["answer"]["in_time"] is False
    assert rows["qwen3-4b"]["languages"][0] == "zh"


@pytest.mark.parametrize(
    ("name", "prompt", "lacks"),
    [
        ("smollm2-135m", "海象是什么？", True),
        ("SmolLM2-135M", "What is 海象?", True),
        ("smollm2-135m", "What is a walrus?", False),
        ("qwen3-0.6b", "海象是什么？", False),
        ("./model.gguf", "海象是什么？", False),
        ("embedder", "海象", False),
    ],
)
def test_models_without_chinese_are_known(name: str, prompt: str, lacks: bool) -> None:
    assert lacks_chinese(name, prompt) is lacks


@pytest.mark.usefixtures("settings")
def test_one_line_names_a_model_that_has_chinese(capsys: pytest.CaptureFixture[str]) -> None:
    assert note_language("run", "smollm2-135m", "海象是什么？")
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    named = err.split("miaotui run ")[1].strip()
    assert "zh" in CATALOG[named].languages
    assert not note_language("run", "smollm2-135m", "What?")
    assert capsys.readouterr().err == ""
