"""Predictions follow a measurement of the same model, and questions that a file answers otherwise are counted."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from made_texts import RATES, made_job

from miaotui.backends.cpu.workspace import KvPages
from miaotui.config import Settings
from miaotui.errors import CacheError
from miaotui.hub import files
from miaotui.hub.store import PackedStore
from miaotui.kernels.platform.host import busy_ticks
from miaotui.model.oracle import Oracle
from miaotui.model.packed import load_packed, packed_key
from miaotui.optimize import speed
from miaotui.optimize.cost import MachineRates, answer_cost, cost_scale, kv_token_bytes, shaped_matrices
from miaotui.optimize.layerwise import log_probabilities
from miaotui.optimize.loss_meter import LossMeter
from miaotui.optimize.pruning.prune import PruneOptions, Pruning
from miaotui.optimize.pruning.pruned_file import LayerWidths, write_pruned
from miaotui.optimize.pruning.shape import PrunedShape
from miaotui.optimize.source import open_source
from miaotui.optimize.speed import MeasuredSpeed, kept_speed, measured_speed, others_share, scaled_rates
from miaotui.optimize.texts.choices import choice_rows, chosen
from miaotui.text.load import load_tokenizer
from tiny_models import make_tiny_gguf, tiny_config


def test_a_scaled_prediction_of_the_measured_file_is_the_measurement(tmp_path: Path) -> None:
    with open_source(make_tiny_gguf(tmp_path, "llama", kind="Q8_0")) as source:
        kinds = {one.name: source.file.tensors[one.name].kind for one in source.matrices}
        plain = answer_cost(source, kinds, RATES, 100, 20)
        scale = cost_scale(plain, 20, 1000.0, 0.05, 250_000_000)
        found = answer_cost(source, kinds, replace(RATES, scale=scale), 100, 20)
        assert found.tokens_per_s == pytest.approx(1000.0)
        assert found.seconds == pytest.approx(0.05)
        assert found.peak_bytes == pytest.approx(250_000_000, abs=2)
        asked = []

        def measure() -> MeasuredSpeed:
            asked.append(1)
            return MeasuredSpeed(1000.0, 0.05, 0.05, 250_000_000, 1, 100, 20, 1)

        def rates() -> MachineRates:
            return scaled_rates(source, RATES, kept_speed(source.digest(), RATES, measure, (100, 20), tmp_path))

        first, second = rates(), rates()
        assert first == second == replace(RATES, scale=scale)
        assert len(asked) == 1
        next(tmp_path.glob("speed-*.json")).write_text(json.dumps({"tokens": 1}), encoding="utf-8")
        assert rates() == first
        assert len(asked) == 2


@pytest.mark.parametrize("known", [False, True])
def test_a_measurement_leaves_the_cache_of_packed_weights_as_it_was(
    known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIAOTUI_HOME", str(tmp_path / "home"))
    model = make_tiny_gguf(tmp_path, "llama", kind="Q8_0")
    store = PackedStore(Settings.from_env().folder("packed"))
    found = MeasuredSpeed(1000.0, 0.05, 0.05, 250_000_000, 1, 100, 20, 1)

    def packed_in_a_process(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        load_packed(Path(command[3]), store).close()
        return subprocess.CompletedProcess(command, 0, f"{json.dumps(asdict(found))}\n", "")

    if known:
        load_packed(model, store).close()
    monkeypatch.setattr(speed.subprocess, "run", packed_in_a_process)
    assert measured_speed(model, 100, 20) == found
    assert store.holds(packed_key(model)) is known
    assert len(list(store.folder.iterdir())) == known


def test_a_shape_costs_what_its_file_costs(tmp_path: Path) -> None:
    with open_source(make_tiny_gguf(tmp_path, "llama", kind="Q8_0")) as source:
        shape = PrunedShape((0, 2), 1, 64)
        widths = LayerWidths([1], list(range(64)))
        write_pruned(source, shape, tmp_path / "out.gguf", {0: widths, 2: widths})
        kinds = {one.name: source.file.tensors[one.name].kind for one in source.matrices}
        predicted = answer_cost(source, kinds, RATES, 50, 10, shape)
        with open_source(tmp_path / "out.gguf") as made:
            sizes = sorted((one.rows, one.cols) for one in made.matrices)
            assert sizes == sorted((one.rows, one.cols) for one in shaped_matrices(source, shape))
            same = {one.name: kinds["token_embd.weight"] for one in made.matrices}
            assert predicted == answer_cost(made, same, RATES, 50, 10)


@pytest.mark.parametrize("kind", ["f16", "int8"])
def test_keys_and_values_take_what_the_engine_keeps(kind: str) -> None:
    config = tiny_config("llama")
    assert kv_token_bytes(config, kind) == KvPages.bytes_per_token(config, kind)  # type: ignore[arg-type]


def test_answers_that_a_file_changes_are_counted(tmp_path: Path) -> None:
    with (
        open_source(make_tiny_gguf(tmp_path, "llama", 0)) as source,
        open_source(make_tiny_gguf(tmp_path, "llama", 1)) as other,
    ):
        tokenizer = load_tokenizer(source.file.metadata, tmp_path)
        rows = choice_rows(tokenizer)
        assert max(row.question for row in rows) + 1 == len(rows) / 3 > 30
        expected = []
        for model in (source, other):
            oracle, sums = Oracle(model.config, model.canonical()), []
            for row in rows:
                logs = log_probabilities(oracle.logits(row.tokens))
                places = range(len(row.tokens) - row.answer, len(row.tokens))
                sums.append(-sum(float(logs[at - 1, row.tokens[at]]) for at in places))
            expected.append([int(np.argmin(sums[i : i + 3])) for i in range(0, len(sums), 3)])
        meter = LossMeter(source, [list(range(40))], tokenizer)
        same, changed = meter.of_source(source), meter.of_source(other)
        assert (same.flips, same.mean_kl) == (0, 0)
        assert changed.flips == sum(a != b for a, b in zip(*expected, strict=True)) > 0
        assert (changed.right_of_source, changed.right) == tuple(each.count(0) for each in expected)
        assert chosen(rows, [np.zeros(len(row.tokens)) for row in rows]) == [0] * (len(rows) // 3)


def test_a_full_disk_is_one_error_before_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = made_job(make_tiny_gguf(tmp_path, "llama"), tmp_path, size_bytes=110_000)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: files.shutil._ntuple_diskusage(10, 10, 0))
    monkeypatch.setattr("miaotui.optimize.pruning.prune.text_sets", lambda *_: pytest.fail("work has begun"))
    with pytest.raises(CacheError, match="are free"):
        Pruning(job, PruneOptions(layers=2)).run()
    assert not job.out.exists()


def test_a_speed_measured_beside_other_programs_says_so(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    assert busy_ticks(tmp_path) is None
    (tmp_path / "proc/stat").write_text(
        "cpu  100 10 20 700 50 0 5 15 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n", encoding="utf-8"
    )
    assert busy_ticks(tmp_path) == (150, 900)
    tick_s = 1 / os.sysconf("SC_CLK_TCK")
    assert others_share((100, 1000), (300, 1200), 50 * tick_s) == pytest.approx(0.75)
    assert others_share((100, 1000), (200, 1200), 150 * tick_s) == 0.0
    assert others_share(None, (200, 1200), 1.0) is None
    quiet = MeasuredSpeed(1000.0, 0.05, 0.05, None, 1, 100, 20, 1)
    assert not quiet.warning
    assert not replace(quiet, others=0.05).warning
    assert "75% of the processors" in replace(quiet, others=0.75).warning
    assert "miaotui doctor" in replace(quiet, others=0.75).warning
