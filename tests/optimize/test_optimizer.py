"""From a model and a target to a file with its card: predictions hold, interrupted runs go on, nothing is half done."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_texts import GAIN, RATES, made_job, made_text

from miaotui.cli import main
from miaotui.cli.advice import machine_speeds
from miaotui.config import Settings
from miaotui.errors import ModelFormatError, ModelNotFoundError, RequestError, UnsupportedModelError
from miaotui.hub.formats.gguf import read_gguf
from miaotui.hub.formats.tensors import BlockType
from miaotui.kernels.platform.cpu import probe
from miaotui.optimize import optimizer
from miaotui.optimize.card import ReportCard, card_path, read_card
from miaotui.optimize.front import front_page
from miaotui.optimize.layerwise import LayerwiseModel, divergence
from miaotui.optimize.optimizer import Optimization, OptimizeOptions
from miaotui.optimize.plan import OptimizeTarget, kinds_named
from miaotui.optimize.quantization import quantize
from miaotui.optimize.quantization.quantize import Quantization, surveyed, uniform, write_quantized
from miaotui.optimize.source import open_source
from miaotui.optimize.speed import MeasuredSpeed
from miaotui.optimize.texts.calibration import read_texts, token_rows
from miaotui.text.load import load_tokenizer
from tiny_models import make_tiny_folder, make_tiny_gguf

SIZE = 150_000  # of the tiny model's 690,000


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_tiny_gguf(tmp_path, "llama")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Optimization, ReportCard]:
    """A job that is done, with its card."""
    folder = tmp_path_factory.mktemp("made")
    job = made_job(make_tiny_gguf(folder, "llama"), folder, size_bytes=SIZE)
    return job, job.run()


def test_a_file_within_its_size_with_its_card(made: tuple[Optimization, ReportCard]) -> None:
    job, card = made
    model, tmp_path = job.path, job.out.parent
    assert 0.95 * SIZE < job.out.stat().st_size <= SIZE
    assert read_card(job.out) == card == read_card(card_path(job.out))
    assert card.quality["mean_kl"] == pytest.approx(card.predicted["mean_kl"], rel=0.5)
    assert card.quality["mean_kl_low"] < card.quality["mean_kl"] < card.quality["mean_kl_high"]
    assert card.quality["mean_kl"] < card.quality["p99_kl"] < card.quality["p99_9_kl"]
    assert card.texts["shared_lines"] == 0
    with read_gguf(job.out) as found, read_gguf(model) as source:
        assert list(found.tensors) == list(source.tensors)
        assert {name: tensor.kind.name for name, tensor in found.tensors.items()} == {
            name: card.choices.get(name, tensor.kind.name) for name, tensor in source.tensors.items()
        }
        norms = [name for name in found.tensors if name not in card.choices]
        assert norms
        for name in norms:
            np.testing.assert_array_equal(found.tensors[name].data, source.tensors[name].data)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("out")) == [
        "out.gguf",
        "out.gguf.card.json",
    ]


@pytest.mark.parametrize("variant", ["gemma2", "qwen2"])
def test_mixed_types_lose_less_than_one_type_in_as_many_bytes(variant: str, tmp_path: Path) -> None:
    model = make_tiny_gguf(tmp_path, variant)
    job = made_job(model, tmp_path, size_bytes=1)
    calibration, test = (read_texts(path) for path in (job.options.calibration, job.options.test) if path)
    with open_source(model) as source:
        tokenizer = load_tokenizer(source.file.metadata, tmp_path)
        rows, held_out = (token_rows(tokenizer, texts, 128, 1024) for texts in (calibration, test))
        quantization = Quantization(source, calibration, rows, keep=False)
        losses = surveyed(tmp_path, quantization)
        plain = uniform(quantization, losses, BlockType.Q5_0)
        mixed = quantize.choose(quantization, losses, plain.file_bytes)
        assert mixed.file_bytes <= plain.file_bytes
        base = LayerwiseModel(source.config, source.canonical())
        lost = []
        for name, choice in (("plain", plain), ("mixed", mixed)):
            write_quantized(quantization, choice, tmp_path / f"{name}.gguf", tmp_path)
            assert choice.file_bytes - 64 <= (tmp_path / f"{name}.gguf").stat().st_size <= choice.file_bytes
            with open_source(tmp_path / f"{name}.gguf") as made:
                other = LayerwiseModel(made.config, made.canonical())
                lost.append(divergence(base, other, held_out).kl.mean())
    assert lost[1] <= 1.02 * lost[0]


def test_the_smallest_file_that_keeps_a_loss(model: Path, tmp_path: Path) -> None:
    job = made_job(model, tmp_path, max_kl=0.01)
    card = job.run()
    assert card.quality["mean_kl"] <= 0.01
    assert card.measured_candidates <= 12
    assert job.out.stat().st_size < 0.4 * model.stat().st_size


def test_an_interrupted_run_goes_on(
    made: tuple[Optimization, ReportCard], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = made[0].path
    expected = made[0].out.read_bytes()
    whole = made_job(model, tmp_path, size_bytes=SIZE)
    real, rounded, surveys = quantize.round_matrix, [], []

    def interrupted(*arguments: object) -> object:
        rounded.append(arguments)
        if len(rounded) == 9:
            raise KeyboardInterrupt
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(quantize, "round_matrix", interrupted)
    with pytest.raises(KeyboardInterrupt):
        made_job(model, tmp_path, size_bytes=SIZE).run()
    assert not whole.out.exists()
    rounded.clear()
    monkeypatch.setattr(quantize, "round_matrix", lambda *each: (rounded.append(each), real(*each))[1])
    monkeypatch.setattr(quantize, "survey", lambda *each: surveys.append(each))
    made_job(model, tmp_path, size_bytes=SIZE).run()
    assert whole.out.read_bytes() == expected
    assert not surveys
    with read_gguf(whole.out) as found:
        assert len(rounded) == sum(not tensor.kind.is_float for tensor in found.tensors.values()) - 8


def test_measured_speed_decides(model: Path, tmp_path: Path) -> None:
    asked: list[int] = []

    def measure(file: Path, prompt: int, answer: int) -> MeasuredSpeed:
        asked.append(file.stat().st_size)
        rate = 4e9 / min(file.stat().st_size, 186_000)  # floats are packed in 8 bits
        return MeasuredSpeed(rate, answer / rate, answer / rate, None, file.stat().st_size, prompt, answer, 1)

    job = made_job(model, tmp_path, tokens_per_s=4e9 / 160_000, prompt=100, answer=20)
    job = Optimization(
        job.path,
        job.out,
        job.target,
        RATES,
        OptimizeOptions(job.options.calibration, job.options.test, 1024, 1024),
        Settings(tmp_path / "home", tmp_path / "home"),
        measure=measure,
        drafts=lambda _: GAIN,
    )
    card = job.run()
    assert job.out.stat().st_size <= 160_000
    assert card.measured_candidates == len(asked) - 1 <= 12
    assert asked == sorted(asked, reverse=True)
    assert asked[0] == model.stat().st_size  # the model's own speed, which predictions are scaled by
    point = card.front["measured"][0]
    assert point["predicted"]["tokens_per_s"] == pytest.approx(point["tokens_per_s"], rel=0.3)
    asked.clear()
    assert job.plan() == job.plan()
    assert not asked  # it is kept
    job.target = OptimizeTarget(size_bytes=200_000, prompt=300)
    with pytest.raises(RequestError, match="do not fit into the model's context of 256"):
        job.plan()


def test_a_plan_says_what_cannot_be_met_before_work(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimizer, "surveyed", lambda *_: pytest.fail("work has begun"))
    job = made_job(model, tmp_path, tokens_per_s=1e8)
    plan = job.plan()
    assert plan == job.plan()
    assert plan["chosen"] is None
    assert "nearest point" in plan["problem"]
    assert len(plan["candidates"]) <= 12
    with pytest.raises(RequestError, match=r"nearest point has .* tokens/s"):
        job.run()
    with pytest.raises(RequestError, match="the smallest that these types allow, "):
        made_job(model, tmp_path, size_bytes=50_000).run()
    assert not job.out.exists()
    types = [one["predicted"]["tokens_per_s"] for one in plan["candidates"] if "keeps" not in one]
    assert types == sorted(types, reverse=True)
    kept = [one["keeps"] for one in plan["candidates"] if "keeps" in one]
    assert [(len(one["layers"]), one["kv_heads"], one["ffn"]) for one in kept] == [(2, 2, 96), (3, 2, 64), (3, 1, 96)]
    for one in plan["candidates"]:
        assert one["with_int8_kv"]["peak_bytes"] < one["predicted"]["peak_bytes"]


def test_what_cannot_be_done_is_one_error(model: Path, tmp_path: Path) -> None:
    def refused(job: Optimization, match: str) -> None:
        with pytest.raises(RequestError, match=match):
            job.run()

    refused(made_job(model, tmp_path, size_bytes=10**9), "nothing to do")
    job = made_job(model, tmp_path, size_bytes=SIZE)
    job.out.write_bytes(b"mine")
    refused(job, "is there already")
    assert job.out.read_bytes() == b"mine"
    job.out.unlink()
    assert job.options.test is not None
    job.options.test.write_text(made_text(0), encoding="utf-8")  # the calibration texts
    refused(job, "lines are in both")
    job.options.test.write_text("a\n\nb\n\nc", encoding="utf-8")
    refused(job, "give more text")
    job.out = tmp_path / "out.bin"
    refused(job, r"must end in \.gguf")
    for wishes in ({}, {"size_bytes": 0}, {"max_kl": -1.0}, {"deadline_s": 1.0, "prompt": 0}):
        with pytest.raises(RequestError):
            OptimizeTarget(**wishes)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="'Q9' is no type"):
        kinds_named(["q4_0", "Q9"])


def test_work_that_does_not_fit_is_refused(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = probe()
    monkeypatch.setattr(optimizer, "probe", lambda: replace(there, memory_bytes=100_000_000))
    job = made_job(model, tmp_path, size_bytes=SIZE)
    with pytest.raises(RequestError, match=r"takes about .* MB of memory, and this machine lets it have 100\.0 MB"):
        job.run()
    assert not job.out.exists()


def test_models_that_cannot_be_written_again_are_refused(tmp_path: Path) -> None:
    folder = make_tiny_folder(tmp_path, "llama")
    with pytest.raises(UnsupportedModelError, match="layers of gemma4 share keys"):
        open_source(make_tiny_gguf(tmp_path, "gemma4"))
    with pytest.raises(UnsupportedModelError, match="convert it to one GGUF file"):
        open_source(folder)
    with pytest.raises(ModelNotFoundError):
        open_source(tmp_path / "none.gguf")
    (tmp_path / "broken.gguf").write_bytes(b"GGUF\3\0\0\0")
    with pytest.raises(ModelFormatError):
        open_source(tmp_path / "broken.gguf")


def test_a_card_is_about_its_file(made: tuple[Optimization, ReportCard], tmp_path: Path) -> None:
    out = tmp_path / "copy.gguf"
    shutil.copyfile(made[0].out, out)
    shutil.copyfile(card_path(made[0].out), card_path(out))
    assert read_card(out) == made[1]
    with out.open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)[0]
        file.seek(-1, 2)
        file.write(bytes([last ^ 1]))
    with pytest.raises(ModelFormatError, match="about another file"):
        read_card(out)
    card_path(out).write_text('{"form": 1}', encoding="utf-8")
    with pytest.raises(ModelFormatError, match="no report card"):
        read_card(out)
    card_path(out).unlink()
    with pytest.raises(ModelNotFoundError, match="miaotui optimize"):
        read_card(out)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MIAOTUI_HOME", str(tmp_path / "home"))
    machine_speeds.keep_speeds(machine_speeds.Speeds(probe().team_size, 20.0, 200.0), probe(), Settings.from_env())
    return tmp_path


def test_the_command_line_plans(
    model: Path, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Optimization, "own_speed", lambda *_: None)
    monkeypatch.setattr(Optimization, "own_drafts", lambda *_: None)
    recipe = home / "recipe.yaml"
    recipe.write_text("size: 150kB\nround-all: true\ntypes: Q4_0,Q8_0\n", encoding="utf-8")
    assert main(["optimize", str(model), "--recipe", str(recipe), "--size", "150000", "--plan"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["target"]["size_bytes"] == 150_000
    assert {name for one in plan["candidates"] for name in one["types"]} == {"Q4_0", "Q8_0"}


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ("size: 1MB\n", "size is 1000000 in the recipe and 150000 on the command line"),
        ("sizes: 1MB\n", "unknown option 'sizes'"),
        ("size: much\n", "must be a size such as 80MB"),
        ("round_all: perhaps\n", "must be true or false"),
        ("types: [a, b]\n", "must be one value"),
        ("- 1\n", "is no recipe"),
        ("max-kl: 0.1\nmax_kl: 0.2\n", "max_kl stands there twice"),
        ("size: [\n", "recipe.yaml"),
    ],
)
def test_a_wrong_recipe_is_refused(
    recipe: str, said: str, model: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "recipe.yaml").write_text(recipe, encoding="utf-8")
    assert main(["optimize", str(model), "--recipe", str(home / "recipe.yaml"), "--size", "150kB", "--plan"]) == 1
    assert said in capsys.readouterr().err


def test_the_command_line_shows_a_card(
    made: tuple[Optimization, ReportCard], capsys: pytest.CaptureFixture[str]
) -> None:
    job, card = made
    assert card.front["measured"][0]["file_bytes"] == job.out.stat().st_size
    assert front_page(card).count("<svg") == 2
    assert main(["card", str(job.out)]) == 0
    assert f"{card.quality['mean_kl']:.4f} nats" in capsys.readouterr().out
    assert main(["card", str(job.out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["choices"] == card.choices
    assert main(["card", str(job.path)]) == 1
    assert "has no report card" in capsys.readouterr().err
