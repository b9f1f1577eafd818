"""Languages as people and programs write them, in speech and in translation."""

from __future__ import annotations

import pytest

from miaotui.errors import FieldError
from miaotui.text.language_names import NAMES, language_subtag
from miaotui.text.seq2seq.languages import found_language
from miaotui.text.speech.tokens import SpeechTokens
from miaotui.translation.languages import LANGUAGES, language_code

SPEECH = SpeechTokens(
    end=0, start=1, previous=2, no_speech=3, first_timestamp=9, vocab_size=20,
    languages={"en": 4, "zh": 5, "he": 6, "yue": 7},
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("en", "en"), ("EN", "en"), ("en-US", "en"), ("en_GB", "en"), ("English", "en"), (" english ", "en"),
        ("zh-Hans-CN", "zh"), ("zh_TW", "zh"), ("Chinese", "zh"), ("Mandarin", "zh"), ("cmn", "zh"),
        ("iw", "he"), ("Hebrew", "he"), ("yue", "yue"), ("Cantonese", "yue"), ("yue-HK", "yue"),
    ],
)  # fmt: skip
def test_a_speech_model_knows_its_languages_by_code_tag_and_name(name: str, code: str) -> None:
    assert SPEECH.language_code(name) == code


@pytest.mark.parametrize("name", ["fr", "French", "english please", "e", "-en", "en-", "😀", "zhx"])
def test_other_words_are_refused_with_the_codes_there_are(name: str) -> None:
    with pytest.raises(FieldError, match="it has en, zh, he, yue"):
        SPEECH.language_code(name)


def test_a_model_of_english_alone_has_english() -> None:
    alone = SpeechTokens(end=0, start=1, previous=2, no_speech=3, first_timestamp=9, vocab_size=20)
    assert alone.language_code("en-US") == "en"
    with pytest.raises(FieldError):
        alone.language_code("German")


def test_translation_takes_tags_and_names() -> None:
    codes = {"deu_Latn": 1, "eng_Latn": 2, "zho_Hans": 3, "zho_Hant": 4, "por_Latn": 5}
    for name, code in [("German", "deu_Latn"), ("en-US", "eng_Latn"), ("pt-BR", "por_Latn"), ("zho_Hant", "zho_Hant")]:
        assert found_language(name, codes, "target") == code
    assert found_language("pt-PT", {"pt": 1, "de": 2}, "target") == "pt"
    assert language_code("nb-NO", "target") == "no"
    assert language_code("zh-Hant", "target") == "zh"
    assert all(NAMES[code] == name for code, name in LANGUAGES.items())
    assert len(set(NAMES.values())) == len(NAMES) == 100
    assert language_subtag("Klingon") == "klingon"
