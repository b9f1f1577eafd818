"""Traps of quantisers, each with what is done about it: silent uniform files, logits of gigabytes, work for nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_texts import made_job

from miaotui.errors import CacheError, MiaotuiError
from miaotui.hub import files
from miaotui.hub.formats.tensors import BlockType
from miaotui.model.oracle import Oracle
from miaotui.optimize import layerwise, optimizer
from miaotui.optimize.layerwise import LayerwiseModel, divergence
from miaotui.optimize.pruning.prune import PruneOptions, Pruning
from miaotui.optimize.pruning.search import ShapeSearch
from miaotui.optimize.source import open_source
from tiny_models import make_tiny_gguf


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_tiny_gguf(tmp_path, "llama")


def test_a_target_at_the_floor_is_no_silent_uniform_file(model: Path, tmp_path: Path) -> None:
    job = made_job(model, tmp_path, size_bytes=300_000)
    job.options = replace(job.options, kinds=frozenset({BlockType.Q4_0}), keep=False)
    card = job.run()
    assert set(card.choices.values()) == {"Q4_0"}
    assert any("the target leaves no choice, so nothing was gained by choosing" in note for note in card.notes)
    assert any("have rows that are no multiple of 256: they have no type of 2 or 3 bits" in note for note in card.notes)


def test_logits_of_a_long_text_are_never_in_memory_at_once(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    real = Oracle.head
    monkeypatch.setattr(Oracle, "head", lambda self, x: (rows.append(len(x)), real(self, x))[1])
    text = [int(token) for token in np.random.default_rng(2).integers(0, 300, 250)]
    with open_source(model) as one, open_source(make_tiny_gguf(tmp_path, "llama", 1)) as two:
        found = divergence(*(LayerwiseModel(each.config, each.canonical()) for each in (one, two)), [text])
    assert len(found.kl) == 250
    assert max(rows) <= layerwise.LOGIT_ROWS < 250


def test_a_full_disk_is_one_error_before_texts_are_read(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = made_job(model, tmp_path, size_bytes=150_000)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: files.shutil._ntuple_diskusage(10, 10, 0))
    monkeypatch.setattr(optimizer, "text_sets", lambda *_: pytest.fail("work has begun"))
    with pytest.raises(CacheError, match="are free"):
        job.run()
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda path: path.write_bytes(b"\x7fELF\x02\x01\x00\xff" * 900), "UTF-8|bytes that no text has"),
        (lambda path: path.write_text("one\n\ntwo\n\nthree\n", encoding="utf-8"), "give more text"),
    ],
    ids=["binary", "three lines"],
)
def test_calibration_that_is_none_leaves_nothing_behind(
    write: Callable[[Path], object], said: str, model: Path, tmp_path: Path
) -> None:
    job = made_job(model, tmp_path, size_bytes=150_000)
    assert job.options.calibration is not None
    write(job.options.calibration)
    job.options = replace(job.options, measure_speed=True)
    job.target = replace(job.target, prompt=20, answer=20)
    job.measure = lambda *_: pytest.fail("work has begun")
    for run in (job.run, ShapeSearch(job).run, Pruning(job, PruneOptions(layers=2)).run):
        with pytest.raises(MiaotuiError, match=said):
            run()
    assert not list(tmp_path.glob("out*"))
