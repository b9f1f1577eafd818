"""Builds the tokenizer of a model's folder: ``tokenizer.json`` and the small files beside it.

Owns which of these files says what. Cutting and merging are the `tokenizers` library's; decoding is
our own, so that streams are exact. Invariant: token bytes, joined, are what the library's decoder
makes of valid UTF-8, but for the spaces that WordPiece's decoder takes away around punctuation.
Source: the `tokenizers` file format and transformers' configuration files.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miaotui.errors import ModelFormatError
from miaotui.text.model_files import read_json, token_text
from miaotui.text.tokenizers.huggingface import LibraryEncoder, encode_with, load_backend, spelling_of
from miaotui.text.tokenizers.tokenizer import Tokenizer, TokenRoles

if TYPE_CHECKING:
    import tokenizers

MAX_TOKENS = 1 << 22  # the largest known vocabularies have 2**20


def from_folder(path: Path, expected: Mapping[str, int] | None = None) -> Tokenizer:
    """Build the tokenizer of the folder `path`; `expected` are ids that its tokens must have, by text.

    Raises `ModelNotFoundError` if it has no ``tokenizer.json``, `ModelFormatError` if a file is damaged or has
    other ids, `UnsupportedModelError` for a kind of tokenizer whose decoding is not known here.
    """
    backend = load_backend(path / "tokenizer.json")
    _require_ids(backend, expected or {}, path)
    spell, drops_space = spelling_of(backend, str(path))
    special = frozenset(token for token, text in backend.get_added_tokens_decoder().items() if text.special)
    return Tokenizer(LibraryEncoder(backend), spell, _roles(path, backend, special, drops_space))


def _require_ids(backend: tokenizers.Tokenizer, expected: Mapping[str, int], path: Path) -> None:
    known = backend.get_vocab(with_added_tokens=True) if expected else {}
    wrong = next((text for text, token in expected.items() if known.get(text) != token), None)
    if wrong is not None:
        raise ModelFormatError(
            f"{path / 'tokenizer.json'} belongs to another model: its token {wrong[:80]!r} has the id "
            f"{known.get(wrong)}, and {expected[wrong]} in the GGUF file; put the file of the same model there"
        )


def vocabulary_size(backend: tokenizers.Tokenizer, source: str) -> int:
    """Return the number above all token ids. Raises `ModelFormatError`, naming ``source``, if it is out of bounds."""
    if type(backend.model).__name__ == "Unigram":  # its ids are places in a list
        size = max(backend.get_vocab_size(with_added_tokens=False) - 1, *backend.get_added_tokens_decoder(), -1) + 1
    else:
        size = max(backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1
    if size > MAX_TOKENS:
        raise ModelFormatError(
            f"the tokenizer in {source} has token ids up to {size - 1:,}, where at most "
            f"{MAX_TOKENS:,} tokens are allowed: the file is damaged; get it again"
        )
    return int(size)


def _roles(path: Path, backend: tokenizers.Tokenizer, special: frozenset[int], drops_space: bool) -> TokenRoles:
    config = read_json(path / "special_tokens_map.json") | read_json(path / "tokenizer_config.json")
    generation = read_json(path / "generation_config.json")
    model = read_json(path / "config.json")
    bos = _token_id(backend, config, "bos_token")
    if bos is None:
        bos = next(iter(_ids(generation, "bos_token_id") or _ids(model, "bos_token_id")), None)
    eos = _token_id(backend, config, "eos_token")
    named = _ids(generation, "eos_token_id") or _ids(model, "eos_token_id")
    prefix, suffix = _surroundings(backend)
    if config.get("add_bos_token") is False:
        prefix = ()
    elif config.get("add_bos_token") is True and not prefix and bos is not None:
        prefix = (bos,)
    return TokenRoles(
        size=vocabulary_size(backend, str(path)),
        bos_id=bos,
        eos_ids=frozenset(named) | ({eos} if eos is not None else frozenset()),
        special_ids=special,
        prefix=prefix,
        suffix=suffix,
        drops_space=drops_space,
        eos_id=eos,
    )


def _surroundings(backend: tokenizers.Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the ids that the file's post-processor puts before and after a text."""
    alone, whole = encode_with(backend, "a").ids, encode_with(backend, "a", surrounded=True).ids
    for start in range(len(whole) - len(alone) + 1):
        if whole[start : start + len(alone)] == alone:
            return tuple(whole[:start]), tuple(whole[start + len(alone) :])
    return (), ()


def _token_id(backend: tokenizers.Tokenizer, config: Mapping[str, Any], name: str) -> int | None:
    text = token_text(config, name)
    token: int | None = backend.token_to_id(text) if text else None
    return token


def _ids(config: Mapping[str, Any], name: str) -> list[int]:
    value = config.get(name)
    values = value if isinstance(value, list) else [value]
    return [item for item in values if isinstance(item, int) and not isinstance(item, bool)]
