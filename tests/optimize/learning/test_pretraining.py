"""Training from texts: the engine runs what comes out, two processes equal one, and a killed run ends as another."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from miaotui.errors import MiaotuiError, RequestError
from miaotui.llm import load
from miaotui.model.oracle import Oracle
from miaotui.model.reading.files import open_model
from miaotui.optimize.learning.pretrain import Pretraining, read_rows
from miaotui.optimize.learning.recipe import PretrainRecipe
from miaotui.training.workers import Worker, workers
from training_texts import sentences

SMALL = PretrainRecipe(
    layers=2, width=64, heads=4, kv_heads=2, ffn=96, vocabulary=300, length=32, steps=8, batch=8, precision="f32"
)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(sentences(600)), encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Two threads of a tiny model would wait for each other; torch may be missing, and then tests are skipped."""
    with contextlib.suppress(ImportError):
        import torch  # noqa: PLC0415  (an extra)

        torch.set_num_threads(1)


def _with(**values: Any) -> PretrainRecipe:
    return PretrainRecipe(**{**vars(SMALL), **values})


@pytest.mark.compare
def test_what_comes_out_runs(texts: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    origin = Pretraining([texts], out, _with(steps=40, rate=0.01), threads=1).run()
    held = origin.measured["held_out"]
    assert held["nats"] < np.log(300) - 1, "better than chance by far"
    with open_model(out) as opened:
        assert (opened.config.n_layers, opened.config.n_kv_heads, opened.config.tied_head) == (2, 2, True)
        oracle = Oracle(opened.config, opened.tensors)
    rows = read_rows([texts], SMALL).held_out()
    total = 0.0
    for row in rows[:6]:
        logits = oracle.logits(row.tokens.tolist())[:-1].astype(np.float64)
        logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        total -= logs[np.arange(31), row.tokens[1:]].mean() / 6
    assert total == pytest.approx(held["nats"], abs=0.5)
    with load(out, backend="reference") as llm:
        first, again = (llm.generate("the", max_tokens=8, ignore_eos=True).token_ids for _ in range(2))
        assert len(first) == 8
        assert first == again


@pytest.mark.compare
def test_parts_and_recomputed_layers_change_nothing(texts: Path, tmp_path: Path) -> None:
    found = []
    for name, values in {"plain": {}, "parts": {"accumulate": 4}, "recomputed": {"recompute": True}}.items():
        Pretraining([texts], tmp_path / name, _with(**values), threads=1).run()
        found.append(load_file(tmp_path / name / "model.safetensors"))
    for other in found[1:]:
        assert all(np.allclose(found[0][each], other[each], atol=2e-4) for each in other)
    assert all(np.array_equal(found[0][each], found[2][each]) for each in found[0])


@pytest.mark.compare
@pytest.mark.slow
def test_two_processes_learn_as_one(texts: Path, tmp_path: Path) -> None:
    for name, processes in {"one": 1, "two": 2, "again": 2}.items():
        origin = Pretraining([texts], tmp_path / name, _with(processes=processes), threads=1).run()
        assert origin.measured["steps"] == 8
    one, two, again = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two", "again"))
    assert all(np.allclose(one[each], two[each], atol=2e-4) for each in one)
    assert all(np.array_equal(two[each], again[each]) for each in two), "the same each time"


@pytest.mark.compare
@pytest.mark.slow
def test_a_killed_run_ends_as_another(texts: Path, tmp_path: Path) -> None:
    words = ["--layers", "2", "--width", "64", "--ffn", "96", "--vocabulary", "300", "--length", "32", "--steps", "60"]
    words += ["--batch", "8", "--save-every", "3", "--threads", "1", "--precision", "f32", "--out"]
    command = [sys.executable, "-m", "miaotui", "train", str(texts), *words]
    nothing = subprocess.DEVNULL
    running = subprocess.Popen([*command, str(tmp_path / "killed")], stdout=nothing, stderr=nothing)
    state, deadline_s = tmp_path / "killed" / "training.safetensors", time.monotonic() + 60
    while time.monotonic() < deadline_s and not (state.is_file() and _step(state) >= 3):
        time.sleep(0.01)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    assert 3 <= _step(state) < 60
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    recipe = _with(heads=4, kv_heads=0, steps=60)
    for name in ("killed", "whole"):
        Pretraining([texts], tmp_path / name, recipe, save_every=3, threads=1).run()
    killed, whole = (load_file(tmp_path / name / "model.safetensors") for name in ("killed", "whole"))
    assert all(np.array_equal(killed[each], whole[each]) for each in whole)
    more = Pretraining([texts], tmp_path / "killed", _with(heads=4, steps=61), threads=1)
    with pytest.raises(RequestError, match="has kv_heads 0, not 2"):
        more.run()


@pytest.mark.compare
def test_an_interrupt_while_weights_move_leaves_the_checkpoint_before(texts: Path, tmp_path: Path) -> None:
    from torch.optim.optimizer import register_optimizer_step_post_hook  # noqa: PLC0415  (an extra)

    moved: list[int] = []

    def interrupt(*_: Any) -> None:
        moved.append(len(moved))
        if len(moved) == 6:  # the weights of step 6 have moved, and it is not counted yet
            raise KeyboardInterrupt

    hook = register_optimizer_step_post_hook(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            Pretraining([texts], tmp_path / "stopped", SMALL, save_every=3, threads=1).run()
    finally:
        hook.remove()
    assert _step(tmp_path / "stopped" / "training.safetensors") == 3
    for name in ("stopped", "whole"):
        Pretraining([texts], tmp_path / name, SMALL, threads=1).run()
    stopped, whole = (load_file(tmp_path / name / "model.safetensors") for name in ("stopped", "whole"))
    assert all(np.array_equal(stopped[each], whole[each]) for each in whole)


def _step(state: Path) -> int:
    with safe_open(state, framework="numpy") as file:
        return int(file.metadata()["step"])


@pytest.mark.compare
def test_bad_runs_are_refused_before_any_work(texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    binary, short, full = tmp_path / "binary", tmp_path / "short", tmp_path / "full"
    binary.write_bytes(bytes(range(256)) * 10)
    short.write_text("three\nshort\nlines\n")
    full.mkdir()
    (full / "something").write_text("")
    cases = [(binary, "new", "UTF-8"), (short, "new", "at least 40 texts"), (texts, "full", "not empty")]
    for path, out, message in cases:
        with pytest.raises(MiaotuiError, match=message):
            Pretraining([path], tmp_path / out, SMALL).run()
        assert not (tmp_path / "new").exists()
    monkeypatch.setenv("MIAOTUI_MEMORY_GB", "0.002")
    with pytest.raises(RequestError, match=r"of memory, and 2\.0 MB may be used"):
        Pretraining([texts], tmp_path / "new", SMALL).run()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"width": 100}, "do not fit"),
        ({"ffn": 100}, "ffn must be"),
        ({"kv_heads": 3}, "multiple of kv-heads"),
        ({"processes": 9}, "processes must be"),
        ({"rate": 2.0}, "the rate between"),
    ],
)
def test_recipes_out_of_range(values: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        _with(**values)


def _fail(worker: Worker, job: object) -> None:
    raise ValueError(f"process {worker.rank} cannot {job}")


@pytest.mark.compare
@pytest.mark.slow
def test_a_process_that_fails_ends_the_run() -> None:
    with pytest.raises(RequestError, match=r"from the last|has failed"), workers(2, _fail, "go on", 1) as worker:
        worker.sum_value(1.0)
