"""Tokenizers from a model's folder: `tokenizer.json` and the configuration beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_vocabularies import AWKWARD, SENTENCES, byte_level
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from miaotui.errors import ModelFormatError, ModelNotFoundError, UnsupportedModelError
from miaotui.text.load import load_chat_template, load_tokenizer
from miaotui.text.tokenizers.from_folder import from_folder
from miaotui.text.tokenizers.from_gguf import from_gguf
from miaotui.text.tokenizers.tokenizer import Tokenizer as TextTokenizer

GPT = byte_level()


def byte_level_library() -> Tokenizer:
    tokens = GPT["tokenizer.ggml.tokens"]
    vocab = {token: index for index, token in enumerate(tokens[:-2])}
    merges = [tuple(merge.split(" ")) for merge in GPT["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in tokens[:3]])
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in tokens[-2:]])
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=64)
    return tokenizer


def piece_library() -> Tokenizer:
    """Like Llama 2's: spaces as ``▁``, bytes for what is unknown, a space before the text."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=[*special, *bytes_], limit_alphabet=60, show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [t for t in state["added_tokens"] if t["content"] in special]
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    return tokenizer


def folder_of(path: Path, tokenizer: Tokenizer, **files: dict[str, Any]) -> Path:
    tokenizer.save(str(path / "tokenizer.json"))
    for name, value in files.items():
        (path / f"{name}.json").write_text(json.dumps(value))
    return path


@pytest.fixture(scope="module")
def byte_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(
        tmp_path_factory.mktemp("bytes"),
        byte_level_library(),
        tokenizer_config={"bos_token": "<|im_start|>", "eos_token": {"content": "<|im_end|>"}},
        generation_config={"eos_token_id": [0, 2]},
    )


@pytest.fixture(scope="module")
def piece_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(
        tmp_path_factory.mktemp("pieces"), piece_library(), tokenizer_config={"bos_token": "<s>", "eos_token": "</s>"}
    )


@pytest.fixture(scope="module")
def pieces(piece_folder: Path) -> TextTokenizer:
    return from_folder(piece_folder)


def test_equals_the_same_from_gguf(byte_folder: Path) -> None:
    ours, other = from_folder(byte_folder), from_gguf(GPT)
    for text in AWKWARD + SENTENCES[:8]:
        for special in (True, False):
            assert ours.encode(text, special) == other.encode(text, special)
        assert ours.decode(ours.encode(text)) == other.decode(other.encode(text))
    assert ours.vocab_size == other.vocab_size
    assert ours.bos_id == other.bos_id == 1
    assert ours.eos_ids == other.eos_ids == {0, 2}
    assert ours.special_ids == other.special_ids
    for token in range(ours.vocab_size):
        assert ours.token_bytes(token) == other.token_bytes(token)


def test_unigram_texts_make_no_control_tokens(tmp_path: Path) -> None:
    """The library finds control tokens in any text there, since they are pieces like others."""
    letters = [(letter, -3.0) for letter in "abs<>▁"]
    library = Tokenizer(models.Unigram([("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *letters], unk_id=0))
    library.pre_tokenizer, library.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    library.add_special_tokens(["<unk>", "<s>", "</s>"])
    ours = from_folder(folder_of(tmp_path, library))
    plain = ours.encode("a<s>b</s>", special=False)
    assert ours.special_ids.intersection(plain) == {0}  # the slash is unknown
    assert ours.decode(plain) == "a<s>b<s>"
    assert ours.encode("a<s>b").count(1) == 1
    text = "<s>a<s>"
    assert ours.encode_at(text, ours.find_controls(text)[:1]).count(1) == 1


def test_pieces(piece_folder: Path) -> None:
    ours, theirs = (from_folder(piece_folder), Tokenizer.from_file(str(piece_folder / "tokenizer.json")))
    for text in AWKWARD + SENTENCES[:8]:
        ids = theirs.encode(text).ids
        assert ours.encode(text, special=False) == ids[1:-1] or "<s>" in text
        assert ours.encode(text) == ids or text == ""
        assert ours.decode(ids) == theirs.decode(ids)
    assert ours.roles.prefix == (1,)
    assert ours.roles.suffix == (2,)
    assert ours.token_bytes(3) == b"\x00"
    assert 1 not in ours.encode("<s>", special=False)


@settings(deadline=None, derandomize=True)
@given(ids=st.lists(st.integers(0, 610), max_size=30), start=st.booleans())
def test_streams_of_pieces(pieces: TextTokenizer, ids: list[int], start: bool) -> None:
    stream = pieces.stream(start=start)
    assert "".join(map(stream.push, ids)) + stream.finish() == pieces.decode(ids, start=start)


def test_configuration_overrides_the_beginning(tmp_path: Path) -> None:
    config = {"bos_token": "<|im_start|>", "add_bos_token": True}
    folder_of(tmp_path, byte_level_library(), tokenizer_config=config)
    assert from_folder(tmp_path).encode("hi")[0] == 1
    folder_of(tmp_path, piece_library(), tokenizer_config={"add_bos_token": False})
    assert from_folder(tmp_path).roles.prefix == ()


def test_ids_from_the_models_configuration(tmp_path: Path) -> None:
    folder_of(tmp_path, byte_level_library(), config={"bos_token_id": 1, "eos_token_id": 2})
    assert from_folder(tmp_path).bos_id == 1
    assert from_folder(tmp_path).eos_ids == {2}


def test_metaspace_decoding(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.BPE({"▁the": 0, "▁dog": 1, "<unk>": 2}, [], unk_token="<unk>"))
    tokenizer.decoder = decoders.Metaspace()
    assert from_folder(folder_of(tmp_path, tokenizer)).decode([0, 1]) == "the dog"


def test_loading_by_what_is_there(byte_folder: Path) -> None:
    assert load_tokenizer(None, byte_folder).encode("hi") == load_tokenizer(GPT, None).encode("hi")
    assert not load_chat_template(None, byte_folder).available
    assert not load_chat_template(GPT, None).available
    with pytest.raises(ModelFormatError, match="GGUF file or a folder"):
        load_tokenizer(None, None)


class TestBesideAGgufFile:
    """A ``tokenizer.json`` beside a GGUF file whose pre-tokenizer is not known."""

    unknown = GPT | {"tokenizer.ggml.pre": "newest"}

    def test_it_answers(self, byte_folder: Path) -> None:
        assert load_tokenizer(self.unknown, byte_folder).encode("hi there") == load_tokenizer(GPT, None).encode(
            "hi there"
        )

    def test_it_counts_only_where_it_is_needed(self, tmp_path: Path) -> None:
        (tmp_path / "tokenizer.json").write_text("damaged")
        assert load_tokenizer(GPT, tmp_path).encode("hi") == load_tokenizer(GPT, None).encode("hi")

    def test_without_it(self, tmp_path: Path) -> None:
        with pytest.raises(UnsupportedModelError, match=r"beside this GGUF file"):
            load_tokenizer(self.unknown, tmp_path)

    def test_it_must_be_the_same_models(self, byte_folder: Path) -> None:
        tokens = list(GPT["tokenizer.ggml.tokens"])
        tokens[100], tokens[101] = tokens[101], tokens[100]
        with pytest.raises(ModelFormatError, match="belongs to another model"):
            load_tokenizer(self.unknown | {"tokenizer.ggml.tokens": tokens}, byte_folder)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"no tokenizer\.json"):
        from_folder(tmp_path)


@pytest.mark.parametrize("text", ["", "{}", "[]", "{", '{"model": 7}', "[" * 10_000, "\x00\xff"])
def test_damaged(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokenizer.json").write_text(text, encoding="latin-1")
    with pytest.raises(ModelFormatError, match="is damaged"):
        from_folder(tmp_path)


def test_unknown_decoder(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.decoder = decoders.CTC()
    with pytest.raises(UnsupportedModelError, match="CTC"):
        from_folder(folder_of(tmp_path, tokenizer))


def test_a_folder_without_tokenizer_json_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="get it from where the model came from"):
        load_tokenizer(None, tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"SentencePiece")
    with pytest.raises(ModelNotFoundError, match="make a GGUF file of the model"):
        load_tokenizer(None, tmp_path)
