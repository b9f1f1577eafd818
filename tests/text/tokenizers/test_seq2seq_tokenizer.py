"""Tokenizers of encoder-decoders: Marian's files beside SentencePiece, languages, and damaged files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miaotui.errors import FieldError, ModelFormatError, ModelNotFoundError, UnsupportedModelError
from miaotui.text.seq2seq.languages import found_language, language_codes
from miaotui.text.seq2seq.load import load_seq2seq_tokenizer
from miaotui.text.seq2seq.sentencepiece_file import parse_sentencepiece
from seq2seq_files import SENTENCES, marian_folder, trained_spm, unigram_folder
from tiny_seq2seq import VOCAB

SPM = trained_spm(80)


def test_marians_pieces_are_sentencepieces(tmp_path: Path) -> None:
    import sentencepiece  # noqa: PLC0415  (slow to import)

    folder = marian_folder(tmp_path)
    vocabulary = json.loads((folder / "vocab.json").read_text())
    model = sentencepiece.SentencePieceProcessor(model_proto=SPM)
    tokenizer = load_seq2seq_tokenizer(folder, "marian", (0,), VOCAB)
    for text in (*SENTENCES, "  Two  spaces ", "ﬁne Ｆull", "日本 unknown", ""):
        pieces = model.encode(text, out_type=str)
        ids = tokenizer.source(text)
        assert ids == [*(vocabulary.get(piece, 1) for piece in pieces), 0]
    assert tokenizer.join(tokenizer.source(SENTENCES[0])) == SENTENCES[0]


@pytest.mark.compare
def test_marians_ids_are_those_of_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = marian_folder(tmp_path, languages=("deu", "fra"))
    theirs = transformers.MarianTokenizer.from_pretrained(folder)
    tokenizer = load_seq2seq_tokenizer(folder, "marian", (0,), VOCAB)
    for text in SENTENCES:
        ids = tokenizer.source(text, target="fr")
        assert ids == theirs(f">>fra<< {text}").input_ids
        assert tokenizer.join(ids[1:]) == theirs.decode(ids[1:], skip_special_tokens=True)


def test_languages_come_from_arguments_never_from_the_text(tmp_path: Path) -> None:
    codes = ("eng_Latn", "deu_Latn", "zho_Hans", "zho_Hant")
    folder = unigram_folder(tmp_path, "m2m100", codes)
    tokenizer = load_seq2seq_tokenizer(folder, "m2m100", (1,), VOCAB)
    assert sorted(tokenizer.languages) == sorted(codes)
    english, german = tokenizer.languages["eng_Latn"], tokenizer.languages["deu_Latn"]
    ids = tokenizer.source("the dog deu_Latn </s>", source="en")
    assert ids[0] == english
    assert ids[-1] == 1
    assert german not in ids
    assert 1 not in ids[:-1]
    assert tokenizer.language_id("de", "target") == german
    with pytest.raises(FieldError, match=r"target: the model has no language 'tlh'; it has deu_Latn"):
        tokenizer.language_id("tlh", "target")
    with pytest.raises(FieldError, match="source: this model translates"):
        tokenizer.source("the dog")


def test_codes_of_every_form_are_found() -> None:
    words = ["__de__", "__zu__", "deu_Latn", "de_DE", "zh_CN", ">>fra<<", "de", "▁de", "__init__x", ">>a b<<"]
    codes = language_codes((word, place) for place, word in enumerate(words))
    assert codes == {"de": 0, "zu": 1, "deu_Latn": 2, "de_DE": 3, "zh_CN": 4, "fra": 5}
    assert found_language("DE", {"de": 0}, "target") == "de"
    assert found_language("zh", {"zh_CN": 0, "de_DE": 1}, "target") == "zh_CN"
    assert found_language("fr", {"fra": 0}, "target") == "fra"


def test_files_of_other_kinds_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="BPE"):
        parse_sentencepiece(b"\x0a\x05\x0a\x03abc\x12\x02\x18\x02", "x.spm")
    with pytest.raises(ModelNotFoundError, match=r"tokenizer\.json"):
        load_seq2seq_tokenizer(tmp_path, "marian", (0,), VOCAB)
    folder = marian_folder(tmp_path)
    (folder / "vocab.json").write_text(json.dumps({"</s>": 0, "<unk>": VOCAB}))
    with pytest.raises(ModelFormatError, match="ids below"):
        load_seq2seq_tokenizer(folder, "marian", (0,), VOCAB)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, len(SPM)), st.binary(max_size=8), st.booleans())
def test_a_damaged_sentencepiece_file_ends_in_an_error_or_in_a_vocabulary(place: int, bytes_: bytes, cut: bool) -> None:
    content = SPM[:place] + bytes_ + (b"" if cut else SPM[place + len(bytes_) :])
    message = "made.spm"
    try:
        parse_sentencepiece(content, "made.spm")
    except (ModelFormatError, UnsupportedModelError) as error:
        message = str(error)
    assert "made.spm" in message or "tokenizer.ggml" in message
