"""Builds the tokenizer of a model's folder: ``tokenizer.json`` and the small files beside it.

Owns which of these files says what. Cutting and merging are the `tokenizers` library's; decoding is
our own, so that streams are exact. Invariant: token bytes, joined, are what the library's decoder
makes of valid UTF-8. Source: the `tokenizers` file format and transformers' configuration files.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, cast

from miaotui.errors import ModelFormatError, ModelNotFoundError, RequestError, UnsupportedModelError
from miaotui.text.model_files import read_json, token_text
from miaotui.text.tokenizers.byte_level import from_alphabet
from miaotui.text.tokenizers.encoder import ControlSpan
from miaotui.text.tokenizers.growth import require_bounded_growth
from miaotui.text.tokenizers.sentencepiece import SPACE, byte_of
from miaotui.text.tokenizers.tokenizer import Tokenizer, TokenRoles

if TYPE_CHECKING:
    import tokenizers

MAX_FILE_BYTES = 256 << 20
_NO_CHARACTER = "\ufdd0"  # stands for no character in Unicode, so no vocabulary has it
MAX_TOKENS = 1 << 22  # the largest known vocabularies have 2**20


def from_folder(path: Path) -> Tokenizer:
    """Build the tokenizer of the folder `path`.

    Raises `ModelNotFoundError` if it has no ``tokenizer.json``, `ModelFormatError` if a file is
    damaged, `UnsupportedModelError` for a kind of tokenizer whose decoding is not known here.
    """
    backend = _load(path / "tokenizer.json")
    added = backend.get_added_tokens_decoder()
    decoders = _decoders(backend)
    kinds = {decoder["type"] for decoder in decoders}
    literal = {token: text.content for token, text in added.items()}
    if "ByteLevel" in kinds:
        spell = _byte_level_spelling(backend, literal)
    elif kinds & {"ByteFallback", "Metaspace"} or _replaces_space(decoders):
        spell = _piece_spelling(backend)
    else:
        raise UnsupportedModelError(
            f"the tokenizer in {path} decodes by {', '.join(sorted(kinds)) or 'nothing'}; known "
            "here: ByteLevel, ByteFallback, Metaspace. Use a model that has one of these."
        )
    special = frozenset(token for token, text in added.items() if text.special)
    drops_space = any(map(_drops_space, decoders))
    return Tokenizer(_FolderEncoder(backend), spell, _roles(path, backend, special, drops_space))


def _load(file: Path) -> tokenizers.Tokenizer:
    from tokenizers import Tokenizer as Backend  # noqa: PLC0415 - GGUF files may not need it

    if not file.is_file():
        raise ModelNotFoundError(f"{file.parent} has no tokenizer.json; get it from where the model came from")
    if file.stat().st_size > MAX_FILE_BYTES:
        raise ModelFormatError(f"{file} is larger than {MAX_FILE_BYTES:,} bytes; get it again")
    try:
        backend = Backend.from_file(str(file))
    except BaseException as error:
        _require_library_fault(error)
        raise ModelFormatError(f"{file} is damaged: {str(error)[:300]}; get it again") from error
    if backend.normalizer is not None:
        require_bounded_growth(json.loads(backend.normalizer.__getstate__()), file)
    backend.no_truncation()
    backend.no_padding()
    if getattr(backend.model, "dropout", None) is not None:
        backend.model.dropout = None  # for training: the same text would have other tokens each time
    return backend


def _require_library_fault(error: BaseException) -> None:
    """Raise ``error`` again if it is not the library's: a panic inside it is no `Exception`."""
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error


def _ids_of(backend: tokenizers.Tokenizer, text: str, surrounded: bool = False) -> list[int]:
    """Return the token ids of ``text``. Raises `RequestError` where the file's own rules fail on it."""
    try:
        ids: list[int] = backend.encode(text, add_special_tokens=surrounded).ids
    except BaseException as error:
        _require_library_fault(error)
        raise RequestError(
            f"the model's tokenizer cannot take this text ({str(error)[:200]}): "
            "change or shorten the text, or use another model"
        ) from error
    return ids


class _FolderEncoder:
    """Encoder on the `tokenizers` library; see `TextEncoder`.

    To make control tokens at some places only, it writes each of these as an alias: an added token of its
    own that the library recognises in any text. An alias holds 64 random bits, so that no text has one.
    """

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        self._backend = backend
        self._added = backend.get_added_tokens_decoder()
        self._lock = Lock()  # the library's switch for special tokens belongs to it, not to the call
        self._aliases: dict[int, str] = {}  # alias of each control token used so far
        self._real: dict[int, int] = {}  # id of an alias -> id of the control token
        self._secret = secrets.token_hex(8)
        self._first_alias = 1 << 62  # ids of aliases begin here
        self.control_texts = self._texts(special=True)
        self.added_texts = self._texts(special=False)
        controls = frozenset(self.control_texts.values())
        self._unknown = [i for i in _ids_of(backend, _NO_CHARACTER) if i in controls]
        self._controls = controls.difference(self._unknown)

    def encode(self, text: str, special: bool) -> list[int]:
        """Return the ids of ``text``, with the control tokens written in it recognised or not."""
        with self._lock:
            return self._ids(text, special)

    def encode_at(self, text: str, spans: Sequence[ControlSpan]) -> list[int]:
        """Return the ids of ``text`` with control tokens at ``spans`` only."""
        with self._lock:
            self._add_aliases({span.token for span in spans} - self._aliases.keys())
            ids = self._ids(self._with_aliases(text, spans), special=False)
        first, real = self._first_alias, self._real
        return [token if token < first else real[token] for token in ids]

    def _texts(self, special: bool) -> dict[str, int]:
        found = {token.content: i for i, token in self._added.items() if token.special is special and token.content}
        return found | {text.replace(SPACE, " "): token for text, token in found.items()}

    def _ids(self, text: str, special: bool) -> list[int]:
        if self._backend.encode_special_tokens is special:
            self._backend.encode_special_tokens = not special
        ids = _ids_of(self._backend, text)
        return ids if special or self._controls.isdisjoint(ids) else self._spelled_out(ids)

    def _spelled_out(self, ids: Sequence[int]) -> list[int]:
        """Return the ids of a text with its control tokens as characters: Unigram models find them in any text."""
        spelled: list[int] = []
        for token in ids:
            if token in self._controls:
                spelled += (i for character in self._added[token].content for i in self._character(character))
            else:
                spelled.append(token)
        return spelled

    def _character(self, character: str) -> list[int]:
        """Return the token of one character, those of its bytes, or the unknown token."""
        for names in ([character], [f"<0x{byte:02X}>" for byte in character.encode()]):
            ids = [i for i in map(self._backend.token_to_id, names) if i is not None]
            if len(ids) == len(names):
                return ids
        return self._unknown

    def _with_aliases(self, text: str, spans: Sequence[ControlSpan]) -> str:
        parts: list[str] = []
        begin = 0
        for start, end, token in spans:
            parts += (text[begin:start], self._aliases[token])
            begin = end
        return "".join([*parts, text[begin:]])

    def _add_aliases(self, tokens: Set[int]) -> None:
        if not tokens:
            return
        from tokenizers import AddedToken  # noqa: PLC0415 - GGUF files may not need it

        for token in sorted(tokens):
            like = self._added[token]
            alias = f"\ufdd0{self._secret}:{token}\ufdd0"
            added = AddedToken(alias, special=False, normalized=False, lstrip=like.lstrip, rstrip=like.rstrip)
            self._backend.add_tokens([added])
            found = cast(int, self._backend.token_to_id(alias))
            self._aliases[token] = alias
            self._real[found] = token
            self._first_alias = min(self._first_alias, found)


def _decoders(backend: tokenizers.Tokenizer) -> list[dict[str, Any]]:
    """Return the decoder's steps, each as it is written in the file."""
    if backend.decoder is None:
        return []
    step: dict[str, Any] = json.loads(backend.decoder.__getstate__())
    return list(step["decoders"]) if step["type"] == "Sequence" else [step]


def _replaces_space(decoders: list[dict[str, Any]]) -> bool:
    return any(d["type"] == "Replace" and d["pattern"] == {"String": SPACE} for d in decoders)


def _drops_space(decoder: Mapping[str, Any]) -> bool:
    if decoder["type"] == "Metaspace":
        return bool(decoder.get("prepend_scheme", "always") != "never")
    return bool(decoder["type"] == "Strip" and decoder["content"] == " " and decoder["start"] == 1)


def _byte_level_spelling(backend: tokenizers.Tokenizer, literal: Mapping[int, str]) -> Callable[[int], bytes]:
    def spell(token: int) -> bytes:
        if token in literal:
            return literal[token].encode()
        return from_alphabet(backend.id_to_token(token) or "")

    return spell


def _piece_spelling(backend: tokenizers.Tokenizer) -> Callable[[int], bytes]:
    def spell(token: int) -> bytes:
        piece = backend.id_to_token(token) or ""
        byte = byte_of(piece)
        return piece.replace(SPACE, " ").encode() if byte is None else bytes([byte])

    return spell


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
    size = max(backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1
    if size > MAX_TOKENS:
        raise ModelFormatError(
            f"the tokenizer in {path} has token ids up to {size - 1:,}, where at most "
            f"{MAX_TOKENS:,} tokens are allowed: the file is damaged; get it again"
        )
    return TokenRoles(
        size=size,
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
    alone, whole = _ids_of(backend, "a"), _ids_of(backend, "a", surrounded=True)
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
