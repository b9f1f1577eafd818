"""Loads an encoder-decoder's tokenizer from its folder, and the form of its sources by the model's family.

Owns the choice between ``tokenizer.json`` and Marian's ``source.spm``, ``target.spm`` and ``vocab.json``. Knows no
weights. Invariant: the tokens of a source are those of transformers' tokenizer for the same files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from miaotui.errors import ModelFormatError, ModelNotFoundError
from miaotui.hub.formats.ctranslate2.model_bin import read_vocabulary_list
from miaotui.text.encoders.unigram import unigram_from_gguf
from miaotui.text.model_files import read_json
from miaotui.text.seq2seq.languages import language_codes
from miaotui.text.seq2seq.marian_files import load_marian_tokenizer
from miaotui.text.seq2seq.sentencepiece_file import read_sentencepiece
from miaotui.text.seq2seq.tokenizer import Seq2SeqTokenizer, SourceForm
from miaotui.text.tokenizers.from_folder import from_folder
from miaotui.text.tokenizers.sentencepiece import SPACE

MOST_SENTINELS = 1000
MULTILINGUAL = ("mbart", "m2m100")
SETTINGS = "tokenizer_config.json"


def load_seq2seq_tokenizer(folder: Path, architecture: str, eos_ids: Sequence[int], size: int) -> Seq2SeqTokenizer:
    """Load the tokenizer in ``folder`` of a model of ``architecture`` whose vocabulary has ``size`` tokens.

    Raises `ModelNotFoundError`, `ModelFormatError` or `UnsupportedModelError`.
    """
    if architecture == "marian-binary":
        return load_marian_tokenizer(folder, eos_ids, size)
    is_list = architecture == "ctranslate2"
    if (folder / "source.spm").is_file() and (is_list or (folder / "vocab.json").is_file()):
        return _marian(folder, size, is_list)
    if not (folder / "tokenizer.json").is_file():
        raise ModelNotFoundError(
            f"{folder} has neither tokenizer.json nor source.spm with vocab.json: get the tokenizer's files, too"
        )
    tokenizer = from_folder(folder)
    if tokenizer.vocab_size > size and architecture not in ("bart", "pegasus", "ctranslate2"):
        raise ModelFormatError(
            f"the tokenizer in {folder} has {tokenizer.vocab_size:,} tokens, and the model {size:,}: they are of "
            "different models; get both again"
        )
    settings = read_json(folder / SETTINGS)
    form = SourceForm(before=tokenizer.roles.prefix, after=tokenizer.roles.suffix)
    codes = _codes(folder) if architecture in (*MULTILINGUAL, "ctranslate2") else {}
    if codes:
        old = architecture == "mbart" and not str(settings.get("tokenizer_class", "")).startswith("MBart50")
        form = SourceForm(after=tuple(eos_ids[:1]), language="last" if old else "first")
    return Seq2SeqTokenizer(
        cut=lambda text: tokenizer.encode(text, special=False, whole=False),
        join=tokenizer.decode,
        form=form,
        languages=codes,
        default_source=_default_source(settings, codes),
        sentinels=_sentinels(tokenizer.control_texts),
    )


def _sentinels(known: Mapping[str, int]) -> tuple[int, ...]:
    """Return the ids of T5's sentinels, from the first one that stands for a span on."""
    named = (known.get(f"<extra_id_{number}>") for number in range(MOST_SENTINELS))
    return tuple(takewhile(lambda token: token is not None, named))  # type: ignore[arg-type]  # none of them is None


def _codes(folder: Path) -> dict[str, int]:
    """Return the language codes among the tokens that the file adds to its model's."""
    from miaotui.text.tokenizers.huggingface import load_backend  # noqa: PLC0415  (slow to import)

    backend = load_backend(folder / "tokenizer.json")
    added = {token.content: place for place, token in backend.get_added_tokens_decoder().items()}
    return language_codes((added or backend.get_vocab(with_added_tokens=True)).items())


def _default_source(settings: Mapping[str, Any], codes: Mapping[str, int]) -> str:
    named = settings.get("src_lang")
    return named if isinstance(named, str) and named in codes else ""


def _marian(folder: Path, size: int, is_list: bool) -> Seq2SeqTokenizer:
    """Make the tokenizer of Marian's files: pieces of ``source.spm`` are numbered by ``vocab.json``.

    ``is_list``: by CTranslate2's lists instead.
    """
    if is_list:
        ids, targets = (read_vocabulary_list(folder, side) for side in ("source", "target"))
    else:
        ids, own = _vocabulary(folder / "vocab.json", size), folder / "target_vocab.json"
        targets = _vocabulary(own, size) if own.is_file() else ids
    texts = {token: text for text, token in targets.items()}
    end, unknown = ids.get("</s>"), ids.get("<unk>")
    if end is None or unknown is None:
        raise ModelFormatError(f"the vocabulary in {folder} lacks </s> or <unk>: get the model again")
    vocabulary = read_sentencepiece(folder / "source.spm")
    pieces = unigram_from_gguf(vocabulary)
    hidden = {token for token, text in texts.items() if text in ("</s>", "<unk>", "<pad>", "<s>")}

    def cut(text: str) -> list[int]:
        return [ids.get(vocabulary.tokens[piece], unknown) for piece in pieces(text)]

    def join(tokens: Sequence[int]) -> str:
        written = (texts.get(token, "") for token in tokens if token not in hidden)
        return "".join(written).replace(SPACE, " ").strip(" ")

    codes = language_codes(ids.items())
    settings = read_json(folder / SETTINGS)
    return Seq2SeqTokenizer(
        cut=cut,
        join=join,
        form=SourceForm(after=(end,), language="target" if codes else ""),
        languages=codes,
        pair=(str(settings.get("source_lang") or ""), str(settings.get("target_lang") or "")),
    )


def _vocabulary(path: Path, size: int) -> dict[str, int]:
    """Return the ids of a vocabulary's pieces. Raises `ModelFormatError` for other values."""
    found = read_json(path)
    if not found or not all(type(token) is int and 0 <= token < size for token in found.values()):
        raise ModelFormatError(f"{path} must map pieces to ids below {size:,}: get the model again")
    return found
