"""The Python entry of encoder-decoders, over tiny models with real tokenizers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import miaotui
from miaotui.errors import DeadlineUnattainableError, EngineError, FieldError, PromptTooLongError, RequestError
from seq2seq_files import SENTENCES, marian_folder, unigram_folder


def test_targets_of_several_texts_are_those_of_each_alone(tmp_path: Path) -> None:
    with miaotui.load_seq2seq(marian_folder(tmp_path)) as model:
        together = model.generate(SENTENCES, source="en", target="de")
        alone = [model.generate(text)[0] for text in SENTENCES]
        assert together == alone
        assert len({each.text for each in together}) > 1
        greedy = model.generate(SENTENCES[0], num_beams=1, max_length=5)[0]
        assert len(greedy.token_ids) <= 4
        assert model.generate([]) == model.translate([]) == []
        drawn = [model.generate(SENTENCES, num_beams=1, temperature=1.5, seed=seed) for seed in (0, 0, 1)]
        assert drawn[0] == drawn[1] != drawn[2]
        for call in (model.translate, model.generate):
            with pytest.raises(FieldError, match="from en to de, not 'fr'"):
                call(SENTENCES[0], target="fr", source="en")
            with pytest.raises(FieldError, match="num_beams"):
                call(SENTENCES[0], num_beams=0)
            with pytest.raises(RequestError, match="beam_count"):
                call(SENTENCES[0], beam_count=2)
            with pytest.raises(RequestError, match="strings"):
                call([b"dog"])  # type: ignore[list-item]
            with pytest.raises(DeadlineUnattainableError):
                call(SENTENCES, deadline_ms=0.1)
        with pytest.raises(PromptTooLongError, match="split it"):
            model.generate("dog " * 200)
    with pytest.raises(EngineError, match="closed"):
        model.translate("dog")


def test_load_gives_an_encoder_decoder_by_its_folder(tmp_path: Path) -> None:
    folder = unigram_folder(tmp_path, "m2m100", ("eng_Latn", "deu_Latn"), decoder_start_token_id=1, eos_token_id=1)
    with miaotui.load(folder) as model:
        assert isinstance(model, miaotui.Seq2Seq)
        assert model.languages == ["deu_Latn", "eng_Latn"]
        found = model.generate("the dog runs", source="en", target="de")[0]
        codes = model.loop.model.tokenizer.languages
        assert found.token_ids[0] == codes["deu_Latn"]
        assert "deu_Latn" not in found.text
        for wrong in ({"source": "en"}, {"source": "en", "target": "xx"}):
            with pytest.raises(FieldError, match="eng_Latn"):
                model.translate("the dog", **wrong)  # type: ignore[arg-type]
    with miaotui.load(folder, backend="reference", threads=1) as plain:
        assert plain.generate("the dog runs", source="en", target="de", num_beams=2)[0].token_ids
    for wrong in ({"context": 32}, {"backend": "jax"}, {"format": "q5"}, {"threads": 0}):
        with pytest.raises(RequestError, match=next(iter(wrong))):
            miaotui.load(folder, **wrong)


def test_prefixes_of_tasks_come_from_the_models_own_configuration(tmp_path: Path) -> None:
    folder = unigram_folder(tmp_path, "t5", decoder_start_token_id=0, eos_token_id=1, pad_token_id=0)
    config = json.loads((folder / "config.json").read_text())
    tasks = {
        "translation_en_to_de": {"prefix": "translate English to German: "},
        "summarization": {"prefix": "summarize: "},
    }
    (folder / "config.json").write_text(json.dumps(config | {"task_specific_params": tasks}))
    with miaotui.load_seq2seq(folder) as model:
        text = SENTENCES[0]
        assert model.generate(text, target="de") == model.generate("translate English to German: " + text)
        assert model.summarise(text) == model.generate("summarize: " + text)
        with pytest.raises(FieldError, match="no translation from en to fr; it has en_to_de"):
            model.translate(text, source="en", target="fr")
