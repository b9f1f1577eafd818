"""Ensembles: the mean of the members' probabilities, the same bytes alone and in a batch, and time for all members."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from miaotui.backends.backend import Backend, StepResult
from miaotui.backends.ensemble import EnsembleBackend, average
from miaotui.engine.calibrate import calibrate
from miaotui.errors import MiaotuiError, RequestError, UnsupportedModelError
from miaotui.llm import load
from miaotui.model.oracle import Oracle, softmax
from miaotui.model.reading.files import open_model
from tiny_models import make_tiny_folder

PROMPTS = ["one two three", "hello", "the river and the hill", "zzz"]


def write_ensemble(place: Path, members: list[dict[str, Any]]) -> Path:
    place.write_text(json.dumps({"members": members}), encoding="utf-8")
    return place


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """Two models of one tokenizer and different shapes, two to one."""
    make_tiny_folder(tmp_path, "llama")
    make_tiny_folder(tmp_path, "qwen3", seed=1)
    members = [{"model": "./llama-0", "weight": 2}, {"model": "./qwen3-1"}]
    return write_ensemble(tmp_path / "both.ensemble.json", members)


def test_logits_are_those_of_the_mean(pair: Path) -> None:
    tokens = [5, 17, 3, 90, 41, 8]
    probabilities = 0.0
    for name, weight in (("llama-0", 2 / 3), ("qwen3-1", 1 / 3)):
        with open_model(pair.parent / name) as opened:
            probabilities += weight * softmax(Oracle(opened.config, opened.tensors).logits(tokens))
    with load(pair, backend="reference") as llm:
        found = llm.logits(tokens)
        told = llm.generate(tokens, max_tokens=1, logprobs=3, ignore_eos=True)
    assert np.allclose(np.exp(found), probabilities, atol=1e-3)
    assert told.token_ids[0] == int(np.argmax(probabilities[-1]))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_alone_and_in_a_batch_the_same_bytes(pair: Path, backend: str) -> None:
    options = {"backend": backend, **({"threads": 1, "chunk_size": 64} if backend == "cpu" else {"chunk_size": 64})}
    wanted = {"max_tokens": 10, "ignore_eos": True}
    with load(pair, **options) as llm:
        for more in ({}, {"temperature": 0.9, "seed": 3}):
            together = llm.generate(PROMPTS, **wanted, **more)
            alone = [llm.generate(prompt, **wanted, **more) for prompt in PROMPTS]
            assert [each.token_ids for each in together] == [each.token_ids for each in alone]
    with load(pair, speculate=False, **options) as llm:
        plain = [llm.generate(prompt, **wanted, **more).token_ids for prompt in PROMPTS]
    assert plain == [each.token_ids for each in alone], "drafts change nothing"


def test_members_that_are_one_model_answer_as_it(tmp_path: Path) -> None:
    make_tiny_folder(tmp_path, "llama")
    pair = write_ensemble(tmp_path / "x.ensemble.json", [{"model": "./llama-0"}, {"model": "./llama-0", "weight": 3}])
    wanted = {"max_tokens": 8, "ignore_eos": True}
    with load(pair, threads=1, chunk_size=64) as both, load(tmp_path / "llama-0", threads=1, chunk_size=64) as one:
        assert [both.generate(p, **wanted).text for p in PROMPTS] == [one.generate(p, **wanted).text for p in PROMPTS]
        assert both.weight_bytes == 2 * one.weight_bytes
        with pytest.raises(RequestError, match="adapters"):
            both.load_adapter("a", tmp_path / "none")


def test_grammars_hold_for_the_average(pair: Path) -> None:
    with load(pair, backend="reference") as llm:
        told = llm.generate(
            "x", max_tokens=4, response_format={"type": "regex", "pattern": "[0-9]{3}"}, temperature=1.0
        ).text
    assert len(told) == 3
    assert told.isdecimal()


class _Timed:
    """A backend whose passes take a fixed time of a manual clock."""

    def __init__(self, backend: Backend, clock: list[float], pass_s: float) -> None:
        self._backend, self._clock, self._pass_s = backend, clock, pass_s

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def run(self, *words: Any, **more: Any) -> StepResult:
        self._clock[0] += self._pass_s
        return self._backend.run(*words, **more)


def test_promises_count_all_members(pair: Path) -> None:
    clock = [0.0]
    with load(pair, backend="reference", context=64) as llm:
        ensemble = cast("EnsembleBackend", llm.loop.engine.backend)
        timed = [_Timed(each, clock, s) for each, s in zip(ensemble.members, (0.01, 0.02), strict=True)]
        both = EnsembleBackend(cast("Any", timed), (0.5, 0.5), ("a", "b"))
        rates = calibrate(both, lambda: clock[0])
    assert rates.curve[0][1] == pytest.approx(0.03, abs=1e-3)


def test_where_one_model_is_needed_an_ensemble_is_refused(pair: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="name one of its members"):
        open_model(pair)


def test_the_mean_of_extreme_logits_is_finite() -> None:
    rows = [np.array(each, np.float32) for each in ([1e4, 0, -1e4], [-1e4, 0, 1e4])]
    out = np.empty(3, np.float32)
    average(rows, np.array([0.5, 0.5]), out)
    assert np.allclose(out[[0, 2]], np.log(0.5), atol=1e-6)
    assert np.isfinite(out).all()
    average([rows[0], np.array([np.nan, 0, 0], np.float32)], np.array([0.5, 0.5]), out)
    assert np.isnan(out).any(), "what is no number stays none"


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([{"model": "./llama-0"}], "2 to 8"),
        ([{"model": "./llama-0"}, {"model": "./llama-0", "weight": 0}], "above 0"),
        ([{"model": "./llama-0"}, {"model": "./llama-0", "share": 1}], "perhaps 'weight'"),
        ([{"model": "./llama-0"}, {"model": "./x.ensemble.json"}], "an ensemble itself"),
        ([{"model": "./llama-0"}, {"model": "./other"}], "another tokenizer"),
        ([{"model": "./llama-0"}, {"model": "./none"}], "none"),
    ],
)
def test_descriptions_that_are_wrong(tmp_path: Path, members: list[dict[str, Any]], message: str) -> None:
    folder = make_tiny_folder(tmp_path, "llama")
    other = tmp_path / "other"
    other.mkdir()
    for file in folder.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    values = json.loads((other / "tokenizer.json").read_text())
    vocabulary = values["model"]["vocab"]
    vocabulary["!"], vocabulary['"'] = vocabulary['"'], vocabulary["!"]
    (other / "tokenizer.json").write_text(json.dumps(values))
    with pytest.raises(MiaotuiError, match=message):
        load(write_ensemble(tmp_path / "x.ensemble.json", members), backend="reference")
