"""Training on masked spans: the engine computes what was trained, and a resumed run is the one that was not cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from miaotui.dmlm.train.recipe import TrainRecipe
from miaotui.errors import RequestError
from miaotui.tasks.frames import fill_frame
from training_texts import write_texts

SMALL = {"layers": 2, "decoder_layers": 1, "width": 64, "heads": 2, "ffn": 64, "vocabulary": 400, "length": 32}


def test_recipes_that_no_decoder_follows_are_refused() -> None:
    with pytest.raises(RequestError, match="left to right"):
        TrainRecipe(decoder_layers=1, block=8)
    with pytest.raises(RequestError, match="left to right"):
        TrainRecipe(decoder_layers=1, masks="adaptive", width=64, heads=2)
    with pytest.raises(RequestError, match="multiple of 32"):
        TrainRecipe(decoder_layers=1, width=64, heads=4)
    with pytest.raises(RequestError, match="decoder_layers"):
        TrainRecipe(decoder_layers=-1)


@pytest.mark.compare
def test_a_trained_encoder_decoder_runs_in_the_engine(tmp_path: Path) -> None:
    import torch  # noqa: PLC0415  (an extra)

    import miaotui  # noqa: PLC0415
    from miaotui.dmlm.train.spans import END_ID, SENTINEL_IDS, SpanTrainer, export_spans  # noqa: PLC0415
    from miaotui.dmlm.train.texts import SENTINELS, read_corpus  # noqa: PLC0415

    recipe = TrainRecipe(**SMALL, masks="spans", schedule="bert", batch=8, steps=6, rate=5e-3)
    corpus = read_corpus([write_texts(tmp_path)], recipe.vocabulary, recipe.length, None, SENTINELS)
    trainer = SpanTrainer(recipe, corpus)
    before = trainer.bound(1, 8)
    losses = [progress.loss for progress in trainer.steps()]
    assert trainer.bound(1, 8) < before
    assert losses[-1] < losses[0]
    half = SpanTrainer(recipe, corpus)
    for progress in half.steps():
        if progress.step == 3:
            break
    resumed = SpanTrainer(recipe, corpus, half.checkpoint())
    list(resumed.steps())
    assert all(np.array_equal(resumed.weights()[name], each) for name, each in trainer.weights().items())

    out = tmp_path / "model"
    export_spans(out, recipe, corpus, trainer.weights())
    with miaotui.load_seq2seq(out, backend="reference", format="f32") as model:
        tokenizer = model.model.tokenizer
        assert tokenizer.sentinels == SENTINEL_IDS
        parts = ["The cat", " on the ", "."]
        source = tokenizer.source_of_parts(parts)
        assert source[-1] == END_ID
        found = fill_frame(parts, model, max_tokens=3, num_beams=1)
        assert found.text.startswith("The cat")
        settings = model.settings({"num_beams": 1, "max_length": 8})
        (target,) = model.loop.run([(source, settings)], None)
        with torch.no_grad():
            given = torch.tensor([source])
            for place in range(1, len(target.tokens)):
                begun = torch.tensor([target.tokens[:place]])
                logits = trainer.network.logits(given, begun, torch.ones_like(given, dtype=torch.bool))[0, -1]
                assert int(logits.argmax()) == target.tokens[place]
