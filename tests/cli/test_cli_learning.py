"""``miaotui merge``, ``finetune``, ``train`` and ``card`` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from miaotui.cli import main
from miaotui.cli.output.progress import ProgressBars
from miaotui.cli.output.terminal import printable
from miaotui.cli.serve import _open_beside_imports
from miaotui.llm import LLM
from miaotui.model.reading.files import open_model
from miaotui.serve.settings import ServeSettings
from tiny_models import make_tiny_folder


@pytest.fixture(autouse=True)
def _english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C.UTF-8")


def test_a_merge_by_options_and_by_recipe_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (make_tiny_folder(tmp_path, "llama", seed=seed) for seed in (0, 1))
    out = tmp_path / "one"
    assert main(["merge", str(first), str(second), "--weights", "1:0.5,2", "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert "llama-0" in told
    assert told.endswith(f"{out}\n")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"models: [{first}, {second}]\nweights: [[1, 0.5], 2]\n")
    assert main(["merge", "--recipe", str(recipe), "--out", str(tmp_path / "two")]) == 0
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "two" / "model.safetensors").read_bytes()
    with open_model(out) as made:
        assert made.config.n_layers == 3
    capsys.readouterr()
    assert main(["card", str(out), "--json"]) == 0
    card = json.loads(capsys.readouterr().out)
    assert (card["made_by"], len(card["sources"])) == ("merge", 2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["merge", "a", "b", "--t", "0.3"], "linear has no t: methods with one are slerp"),
        (["merge", "a", "b", "--method", "slerp", "--seed", "3"], "slerp has no seed"),
        (["merge", "a", "b", "--scale", "2"], "linear has no scale"),
        (["finetune", "a", "b.jsonl", "--replay-share", "0.5"], "name their file with --replay"),
        (["finetune", "a", "b.jsonl", "--full", "--alpha", "8"], "--alpha is of an adapter"),
    ],
)
def test_an_option_that_would_change_nothing_is_refused(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--out", str(tmp_path / "out")]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method: slerp\nmodels: x\n", "models must be a list"),
        ("speed: 3\n", "unknown option 'speed'"),
        ("scale: fast\n", "scale cannot be 'fast'"),
        ("t: middle\n", "must be numbers"),
        ("- a\n", "no recipe"),
        ("method: ties\n", "'ties' in"),
    ],
)
def test_recipes_that_are_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(text)
    words = ["merge", "a", "b", "--recipe", str(recipe), "--out", str(tmp_path / "out"), "--method", "linear"]
    assert main(words) == 1
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1


@pytest.mark.parametrize("words", [["merge", "a", "b"], ["finetune", "a", "b.jsonl"], ["train", "a.txt"]])
def test_a_place_is_needed(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert main(words) == 1
    assert "--out" in capsys.readouterr().err


def test_an_ensemble_is_run_and_served_by_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_tiny_folder(tmp_path, "llama")
    make_tiny_folder(tmp_path, "qwen3", seed=1)
    both = tmp_path / "both.ensemble.json"
    both.write_text(json.dumps({"members": [{"model": "./llama-0"}, {"model": "./qwen3-1"}]}))
    assert main(["run", str(both), "hello", "--max-tokens", "4", "--backend", "reference", "--ignore-eos"]) == 0
    told = capsys.readouterr().out.strip()
    options = ServeSettings(models=(str(both),), backend="reference")
    with ProgressBars() as progress:
        opened = _open_beside_imports(options, progress)
    with LLM(opened.chats["both"], owns_loop=True) as llm:
        messages = [{"role": "user", "content": "hello"}]
        assert printable(llm.chat(messages, max_tokens=4, ignore_eos=True).text).strip() == told
