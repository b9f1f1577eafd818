"""Encoders made smaller: their GGUF copy is the encoder, the file fits its size, and its card says what was lost."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from miaotui.cli import main
from miaotui.errors import RequestError, UnsupportedModelError
from miaotui.hub.formats.gguf import read_gguf
from miaotui.model.encoder.opened import open_encoder
from miaotui.model.encoder.oracle import EncoderOracle
from miaotui.model.writing.encoder_copy import write_encoder_copy
from miaotui.optimize.card import read_card
from miaotui.optimize.encoders import quantize
from miaotui.optimize.encoders.quantize import EncoderOptimization
from miaotui.text.encoders.load import load_encoder_tokenizer
from tiny_encoder_models import WORDS, make_encoder_folder


def made_encoder(folder: Path) -> Path:
    """A tiny BERT with the files of sentence-transformers that say how it pools."""
    path = make_encoder_folder(folder)
    modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    modules.append({"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"})
    modules.append({"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"})
    (path / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    (path / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 64, "pooling_mode_mean_tokens": True}
    (path / "1_Pooling" / "config.json").write_text(json.dumps(pooling), encoding="utf-8")
    return path


def made_texts(folder: Path, name: str = "texts.txt", seed: int = 0) -> Path:
    source = random.Random(seed)
    texts = [" ".join(source.choices([*WORDS, "12", "cats", "是猫"], k=30)) for _ in range(200)]
    (folder / name).write_text("\n\n".join(texts), encoding="utf-8")
    return folder / name


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    write_encoder_copy(made_encoder(tmp_path), tmp_path / "copy.gguf")
    return tmp_path / "copy.gguf"


def test_a_copy_is_the_encoder(copy: Path, tmp_path: Path) -> None:
    with open_encoder(tmp_path / "embed-0") as one, open_encoder(copy) as two:
        tokenizers = load_encoder_tokenizer(None, one.folder), load_encoder_tokenizer(two.metadata, None)
        text = "The cats sat, 2 dogs: 你好吗 (pingpong)"
        first, second = (each.encode_text(text).tokens for each in tokenizers)
        assert list(first) == list(second)
        states = [EncoderOracle(each.config, each.weights).states(list(first)) for each in (one, two)]
        np.testing.assert_array_equal(states[0], states[1])
        assert one.pooling == two.pooling


def test_encoders_that_a_copy_cannot_describe_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="no BERT without a head"):
        write_encoder_copy(make_encoder_folder(tmp_path, "rerank"), tmp_path / "x.gguf")
    with pytest.raises(UnsupportedModelError, match="its pooling cannot be said"):
        write_encoder_copy(make_encoder_folder(tmp_path, seed=1), tmp_path / "x.gguf")
    assert not list(tmp_path.glob("x*"))


def test_an_encoder_within_its_size_with_its_card(copy: Path, tmp_path: Path) -> None:
    size = int(0.3 * copy.stat().st_size)
    job = EncoderOptimization(copy, tmp_path / "out.gguf", size, made_texts(tmp_path))
    card = job.run()
    assert 0.9 * size < job.out.stat().st_size <= size
    assert read_card(job.out) == card
    assert card.texts["shared_lines"] == 0
    assert card.texts["test"]["texts"] == 40
    with open_encoder(copy) as one, open_encoder(job.out) as two, read_gguf(job.out) as file:
        assert one.config == two.config
        assert {name: tensor.kind.name for name, tensor in file.tensors.items() if name in card.choices} == card.choices
        tokenizer = load_encoder_tokenizer(one.metadata, None)
        texts = (tmp_path / "texts.txt").read_text(encoding="utf-8").split("\n\n")[::5]
        rows = [list(tokenizer.encode_text(text, max_tokens=80, truncate=True).tokens) for text in texts]
        sides = [[EncoderOracle(each.config, each.weights).states(row).mean(0) for row in rows] for each in (one, two)]
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(*sides, strict=True)]
    assert card.quality["mean_loss"] == pytest.approx(1 - np.mean(cosines), rel=0.02)
    assert card.quality["mean_loss_low"] < card.quality["mean_loss"] < card.quality["p99_loss"]
    assert card.predicted["mean_loss"] == pytest.approx(card.quality["mean_loss"], rel=0.6)
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out.gguf", "out.gguf.card.json"]


def test_what_an_encoder_cannot_get_is_one_error(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MIAOTUI_HOME", str(tmp_path / "home"))
    texts = made_texts(tmp_path)
    (tmp_path / "few.txt").write_text("one\n\ntwo\n\nthree", encoding="utf-8")
    for size, known, said in (
        (1000, texts, "the smallest that these types allow, "),
        (10**9, texts, "there is nothing to do"),
        (int(0.3 * copy.stat().st_size), tmp_path / "few.txt", "give more text"),
    ):
        with pytest.raises(RequestError, match=said):
            EncoderOptimization(copy, tmp_path / "out.gguf", size, known).run()
    assert not list(tmp_path.glob("out*"))
    for words, said in (
        (["--size", "50kB"], "give it --calibration"),
        (["--size", "50kB", "--layers", "1"], "--layers is about models that write"),
        (["--calibration", str(texts), "--plan"], "--plan is about models that write"),
    ):
        assert main(["optimize", str(copy), *words]) == 1
        assert said in capsys.readouterr().err


def test_an_interrupted_run_goes_on(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size, texts = int(0.3 * copy.stat().st_size), made_texts(tmp_path)
    EncoderOptimization(copy, tmp_path / "whole.gguf", size, texts).run()
    real, rounded = quantize.round_matrix, []

    def interrupted(*arguments: object) -> object:
        rounded.append(arguments)
        if len(rounded) == 5:
            raise KeyboardInterrupt
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(quantize, "round_matrix", interrupted)
    job = EncoderOptimization(copy, tmp_path / "out.gguf", size, texts)
    with pytest.raises(KeyboardInterrupt):
        job.run()
    assert [path.name for path in tmp_path.glob("out*")] == ["out.gguf.work"]
    monkeypatch.setattr(quantize, "type_options", lambda *_: pytest.fail("the survey was kept"))
    card = job.run()
    assert len(rounded) == 1 + len(card.choices)
    assert job.out.read_bytes() == (tmp_path / "whole.gguf").read_bytes()
    assert not job.out.with_name("out.gguf.work").exists()


def test_the_command_line_takes_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MIAOTUI_HOME", str(tmp_path / "home"))
    words = ["--size", "110kB", "--calibration", str(made_texts(tmp_path)), "--test", str(made_texts(tmp_path, "t", 1))]
    assert main(["optimize", str(made_encoder(tmp_path)), *words]) == 0
    shown = capsys.readouterr().out
    out = tmp_path / "embed-0-optimized.gguf"
    assert out.stat().st_size <= 110_000
    assert f"{read_card(out).quality['mean_loss']:.5f} (1 - cosine; " in shown
    assert main(["card", str(out)]) == 0
    assert "1 - cosine" in capsys.readouterr().out
