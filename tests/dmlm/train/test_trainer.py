"""Training with torch: it learns, it resumes bit for bit, and the engine computes what torch computes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from miaotui.dmlm import load_masked
from miaotui.dmlm.decoding.acceptance import Acceptance
from miaotui.dmlm.decoding.decode import DecodeOptions
from miaotui.dmlm.train.checkpoint import export, read_checkpoint, write_checkpoint
from miaotui.dmlm.train.recipe import TrainRecipe
from miaotui.dmlm.train.texts import TextCorpus, read_corpus
from miaotui.errors import ModelFormatError, RequestError
from miaotui.model.oracle import Oracle
from miaotui.model.reading.files import open_model
from training_texts import write_texts

pytestmark = pytest.mark.compare
RECIPE = TrainRecipe(layers=2, width=64, heads=4, ffn=96, vocabulary=300, length=32, batch=8, steps=60, rate=5e-3)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> TextCorpus:
    import torch  # noqa: PLC0415  (only these tests have it)

    torch.set_num_threads(1)
    return read_corpus([write_texts(tmp_path_factory.mktemp("texts"))], 300, 32)


@pytest.mark.parametrize("masks", ["random", "adaptive"])
def test_a_resumed_run_equals_an_uninterrupted_one(masks: str, corpus: TextCorpus, tmp_path: Path) -> None:
    from miaotui.dmlm.train.trainer import Trainer  # noqa: PLC0415

    recipe = dataclasses.replace(RECIPE, masks=masks, steps=16)
    whole = Trainer(recipe, corpus)
    list(whole.steps())
    first = Trainer(recipe, corpus)
    for progress in first.steps():
        if progress.step == 7:
            break
    write_checkpoint(tmp_path, first.checkpoint())
    kept = read_checkpoint(tmp_path)
    assert kept is not None
    second = Trainer(kept.recipe, corpus, kept)
    assert [progress.step for progress in second.steps()] == list(range(8, 17))
    for name, values in whole.weights().items():
        assert np.array_equal(values, second.weights()[name]), name


@pytest.mark.parametrize(("block", "precision"), [(0, "f32"), (8, "bf16")])
def test_training_lowers_the_bound_and_the_engine_equals_torch(
    block: int, precision: str, corpus: TextCorpus, tmp_path: Path
) -> None:
    import torch  # noqa: PLC0415

    from miaotui.dmlm.train.trainer import Trainer  # noqa: PLC0415

    trainer = Trainer(dataclasses.replace(RECIPE, block=block, precision=precision), corpus)
    before = trainer.bound(2)
    assert before == pytest.approx(np.log(corpus.vocab_size), rel=0.1)  # nothing is known yet
    list(trainer.steps())
    assert trainer.bound(2) < before - 1.0
    folder = tmp_path / "model"
    export(folder, trainer.recipe, corpus, trainer.weights())
    clean = corpus.tokens[:1].copy()
    inputs = clean.copy()
    inputs[0, 24:] = corpus.mask_id  # the last block is masked; what is before it is clean in both
    with torch.no_grad():
        states = trainer.network.states(torch.from_numpy(inputs), torch.from_numpy(clean))
        expected = trainer.network.logits(states)[0].numpy()
    with open_model(folder) as files:
        found = Oracle(files.config, files.tensors).logits(inputs[0].tolist())
    assert np.abs(found - expected)[24:].max() < 1e-4 * np.abs(expected).max()
    with load_masked(folder, backend="reference") as model:
        options = DecodeOptions(8, acceptance=Acceptance(count=1))
        answer = model.generate(inputs[0, :24].tolist(), options)
        assert answer.passes == 8


def test_fine_tuning_begins_with_the_weights_of_another_run(corpus: TextCorpus, tmp_path: Path) -> None:
    from miaotui.dmlm.train.trainer import Trainer  # noqa: PLC0415

    first = Trainer(RECIPE, corpus)
    list(first.steps())
    texts = read_corpus([write_texts(tmp_path, seed=8)], 300, 32, corpus.tokenizer)
    second = Trainer(dataclasses.replace(RECIPE, masks="words", steps=5), texts, pretrained=first.checkpoint())
    assert second.step == 0
    assert second.bound(2) < Trainer(RECIPE, texts).bound(2) - 1.0
    with pytest.raises(RequestError, match="another vocabulary"):
        Trainer(RECIPE, read_corpus([write_texts(tmp_path, seed=9)], 290, 32), pretrained=first.checkpoint())


def test_other_texts_recipes_and_damaged_files_are_refused(corpus: TextCorpus, tmp_path: Path) -> None:
    from miaotui.dmlm.train.trainer import Trainer  # noqa: PLC0415

    trainer = Trainer(dataclasses.replace(RECIPE, steps=1), corpus)
    list(trainer.steps())
    checkpoint = trainer.checkpoint()
    other = read_corpus([write_texts(tmp_path, seed=4)], 300, 32)
    with pytest.raises(RequestError, match="another text or vocabulary"):
        Trainer(RECIPE, other, checkpoint)
    with pytest.raises(RequestError, match="width"):
        Trainer(dataclasses.replace(RECIPE, width=96), corpus, checkpoint)
    assert read_checkpoint(tmp_path) is None
    write_checkpoint(tmp_path, checkpoint)
    path = tmp_path / "training.safetensors"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ModelFormatError, match="no checkpoint"):
        read_checkpoint(tmp_path)
