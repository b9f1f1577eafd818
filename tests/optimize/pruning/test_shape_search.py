"""Parts are left out where no types meet the target, and only there; the shape that loses least is taken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from made_texts import GAIN, made_job

from miaotui.cli import main
from miaotui.config import Settings
from miaotui.errors import RequestError
from miaotui.optimize.card import read_card
from miaotui.optimize.front import front_page
from miaotui.optimize.optimizer import Optimization
from miaotui.optimize.pruning.search import ShapeSearch
from miaotui.optimize.pruning.shape import shape_ladders
from miaotui.optimize.source import open_source
from miaotui.optimize.speed import MeasuredSpeed
from tiny_models import make_tiny_gguf, tiny_config

PER_BYTE = 4e8  # bytes a second of the machine that the tests pretend to have


def measured(file: Path, prompt: int, answer: int) -> MeasuredSpeed:
    """Return the speed of a machine that reads so many bytes a second: the sizes of its matrices alone decide."""
    with open_source(file) as source:
        bits = {
            one.name: min(8.5, 8 * source.file.tensors[one.name].size_bytes / (one.rows * one.cols))
            for one in source.matrices
        }
        read = sum(one.rows * one.cols * bits[one.name] / 8 for one in source.matrices)
    return MeasuredSpeed(PER_BYTE / read, answer * read / PER_BYTE, 1.0, None, 1, prompt, answer, 1)


def busy(file: Path, prompt: int, answer: int) -> MeasuredSpeed:
    """Return the speed of the same machine under other load."""
    found = measured(file, prompt, answer)
    return replace(found, tokens_per_s=found.tokens_per_s / 3, seconds=found.seconds * 3)


def job_for(model: Path, folder: Path, **wishes: float) -> Optimization:
    job = made_job(model, folder, prompt=20, answer=20, **wishes)
    job.options = replace(job.options, measure_speed=True)
    job.measure, job.drafts = measured, lambda _: GAIN
    job.settings = Settings(folder / "home", folder / "home")
    return job


def fastest(job: Optimization) -> float:
    """Return the highest speed that types alone are predicted to give."""
    plan = job.plan()
    return max(float(one["predicted"]["tokens_per_s"]) for one in plan["candidates"] if "keeps" not in one)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_tiny_gguf(tmp_path, "llama", num_hidden_layers=4)


def test_a_shape_is_taken_where_no_types_are_fast_enough(model: Path, tmp_path: Path) -> None:
    wished = 1.15 * fastest(job_for(model, tmp_path, tokens_per_s=1.0))
    job = job_for(model, tmp_path, tokens_per_s=wished)
    plan = job.plan()
    assert plan == job.plan()
    assert plan["leaves_parts_out"]
    assert plan["drafts"]["tokens_per_pass"] == GAIN.tokens_per_pass
    assert len(plan["candidates"]) <= 12
    kept = [one["keeps"] for one in plan["candidates"] if not one["misses"]]
    assert kept == [one["keeps"] for one in plan["candidates"] if "keeps" in one]
    with pytest.raises(RequestError, match="it is predicted to be met, at a loss that is not known before"):
        job.run()  # types alone
    card = ShapeSearch(job).run()
    changes = card.changes
    assert changes is not None
    assert changes["returned"] == "pruned"
    assert "tokens/s of" in changes["because"]
    losses = [one["pruned"]["mean_kl"] for one in changes["search"]]
    assert len(losses) == len(kept) > 1
    assert changes["pruned"]["mean_kl"] == min(losses)
    assert card.speed is not None
    assert card.speed["tokens_per_s"] >= wished
    assert card.measured_candidates + len(losses) <= 12
    assert read_card(job.out) == card
    assert "shapes, before rounding" in front_page(card)
    first = job.out.read_bytes()
    job.out.unlink()
    repeated = job_for(model, tmp_path, tokens_per_s=wished)
    repeated.measure = busy  # what was measured is kept
    again = ShapeSearch(repeated).run()
    assert job.out.read_bytes() == first
    assert (again.choices, again.changes) == (card.choices, changes)


def test_a_size_below_the_smallest_types_is_met_by_a_shape(model: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="the smallest that these types allow, ") as told:
        made_job(model, tmp_path, size_bytes=1000).plan()
    assert "it is predicted to be met" not in str(told.value)  # half of the model has more
    floor = int(str(told.value).split("these types allow, ")[1].split(" bytes")[0].replace(",", ""))
    job = made_job(model, tmp_path, size_bytes=int(0.9 * floor))
    with pytest.raises(RequestError, match=r"with --layers 3 .* it is predicted to be met"):
        job.plan()
    card = ShapeSearch(job).run()
    assert job.out.stat().st_size <= 0.9 * floor
    assert card.changes is not None
    assert "the smallest that these types allow, " in card.changes["because"]


def test_nothing_goes_while_types_alone_meet_the_target(model: Path, tmp_path: Path) -> None:
    job = job_for(model, tmp_path, tokens_per_s=0.9 * fastest(job_for(model, tmp_path, tokens_per_s=1.0)))
    assert not job.plan()["leaves_parts_out"]
    card = ShapeSearch(job).run()
    assert card.changes is None
    assert card.predicted["drafts"]["tokens_per_pass"] == GAIN.tokens_per_pass
    with open_source(job.out) as made:
        assert made.config.n_layers == 4


def test_a_target_that_half_of_the_model_misses_is_refused(model: Path, tmp_path: Path) -> None:
    job = job_for(model, tmp_path, tokens_per_s=10 * fastest(job_for(model, tmp_path, tokens_per_s=1.0)))
    with pytest.raises(RequestError, match="the target cannot be met; the nearest point has"):
        ShapeSearch(job).run()
    assert not job.out.exists()


def test_keys_of_8_bits_go_before_parts_of_the_model(model: Path, tmp_path: Path) -> None:
    job = made_job(model, tmp_path, deadline_s=1.0, prompt=200, answer=20)
    plan = job.plan()
    times = [(one["predicted"]["seconds"], one["with_int8_kv"]["seconds"]) for one in plan["candidates"][:1]]
    job.target = replace(job.target, deadline_s=sum(times[0]) / 2)
    assert not job.plan()["leaves_parts_out"]
    with pytest.raises(RequestError, match="with --kv int8, here and when the file is run"):
        ShapeSearch(job).run()
    job.target = replace(job.target, kv="int8")
    assert job.plan()["chosen"] is not None


@pytest.mark.parametrize(("variant", "ways"), [("llama", 4), ("gemma3", 2), ("mixtral", 1), ("baichuan-13b", 0)])
def test_ways_of_leaving_out_fit_the_model(variant: str, ways: int) -> None:
    ladders = list(shape_ladders(tiny_config(variant)))
    assert len(ladders) == ways
    for ladder in ladders:
        sizes = [tuple(shape.counts.values()) for shape in ladder]
        assert sizes == sorted(sizes, reverse=True)


def test_the_command_line_refuses_whole_and_fewer(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MIAOTUI_HOME", str(tmp_path / "home"))
    assert main(["optimize", str(model), "--size", "300kB", "--whole", "--layers", "2"]) == 1
    assert "--whole leaves nothing out, and --layers does" in capsys.readouterr().err
