"""Encodes text with the `tokenizers` library, so that nothing hostile in its file or in a text gets through.

Owns loading, the bounds of a file, the switch for control tokens and the spelling of tokens. Does not know what the
files beside ``tokenizer.json`` say. Invariant: text becomes a control token only where the caller allows it, although
Unigram models find their control tokens in any text. Source: the `tokenizers` file format.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from miaotui.errors import ModelFormatError, ModelNotFoundError, RequestError, UnsupportedModelError
from miaotui.text.tokenizers.byte_level import byte_level_spelling
from miaotui.text.tokenizers.encoder import ControlSpan
from miaotui.text.tokenizers.growth import require_bounded_growth
from miaotui.text.tokenizers.sentencepiece import SPACE, piece_spelling

if TYPE_CHECKING:
    import tokenizers

MAX_FILE_BYTES = 256 << 20
CONTINUATION = "##"  # in front of a WordPiece token that continues a word
_NO_CHARACTER = "\ufdd0"  # stands for no character in Unicode, so no vocabulary has it


class Pieces(NamedTuple):
    """Tokens of a text: their ids, and where each begins and ends in it, in characters."""

    ids: list[int]
    offsets: list[tuple[int, int]]


def load_backend(file: Path) -> tokenizers.Tokenizer:
    """Return the library's tokenizer of a ``tokenizer.json``, without truncation, padding or dropout.

    Raises `ModelNotFoundError` if there is no such file, `ModelFormatError` if it is damaged or hostile.
    """
    from tokenizers import Tokenizer as Backend  # noqa: PLC0415 - GGUF files may not need it

    if not file.is_file():
        remedy = "get it from where the model came from"
        if (file.parent / "tokenizer.model").is_file():
            remedy = "tokenizer.model alone is read by llama.cpp's converter: make a GGUF file of the model"
        raise ModelNotFoundError(f"{file.parent} has no tokenizer.json; {remedy}")
    if file.stat().st_size > MAX_FILE_BYTES:
        raise ModelFormatError(f"{file} is larger than {MAX_FILE_BYTES:,} bytes; get it again")
    try:
        backend = Backend.from_file(str(file))
    except BaseException as error:
        require_library_fault(error)
        raise ModelFormatError(f"{file} is damaged: {str(error)[:300]}; get it again") from error
    if backend.normalizer is not None:
        require_bounded_growth(json.loads(backend.normalizer.__getstate__()), file)
    backend.no_truncation()
    backend.no_padding()
    if getattr(backend.model, "dropout", None) is not None:
        backend.model.dropout = None  # for training: the same text would have other tokens each time
    return backend


def require_library_fault(error: BaseException) -> None:
    """Raise ``error`` again if it is not the library's: a panic inside it is no `Exception`."""
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error


def encode_with(backend: tokenizers.Tokenizer, text: str, surrounded: bool = False) -> tokenizers.Encoding:
    """Return the encoding of ``text``. Raises `RequestError` where the file's own rules fail on it."""
    try:
        return backend.encode(text, add_special_tokens=surrounded)
    except BaseException as error:
        require_library_fault(error)
        raise RequestError(
            f"the model's tokenizer cannot take this text ({str(error)[:200]}): "
            "change or shorten the text, or use another model"
        ) from error


class LibraryEncoder:
    """Encoder on the `tokenizers` library; see `TextEncoder`. Safe to use from several threads.

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
        self._unknown = [i for i in encode_with(backend, _NO_CHARACTER).ids if i in controls]
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

    def pieces(self, text: str, special: bool) -> Pieces:
        """Return the ids of ``text`` as `encode` does, and their places in it."""
        with self._lock:
            encoding = self._encoding(text, special)
        pieces = Pieces(encoding.ids, encoding.offsets)
        return pieces if special or self._controls.isdisjoint(pieces.ids) else self._spelled_out(pieces)

    def _texts(self, special: bool) -> dict[str, int]:
        found = {token.content: i for i, token in self._added.items() if token.special is special and token.content}
        return found | {text.replace(SPACE, " "): token for text, token in found.items()}

    def _encoding(self, text: str, special: bool) -> tokenizers.Encoding:
        if self._backend.encode_special_tokens is special:
            self._backend.encode_special_tokens = not special
        return encode_with(self._backend, text)

    def _ids(self, text: str, special: bool) -> list[int]:
        encoding = self._encoding(text, special)
        ids: list[int] = encoding.ids
        if special or self._controls.isdisjoint(ids):
            return ids
        return self._spelled_out(Pieces(ids, encoding.offsets)).ids

    def _spelled_out(self, pieces: Pieces) -> Pieces:
        """Return the tokens of a text with its control tokens as characters: Unigram models find them in any text."""
        spelled = Pieces([], [])
        for token, (start, end) in zip(*pieces, strict=True):
            parts = [token]
            if token in self._controls:
                parts = [i for character in self._added[token].content for i in self._character(character)]
            spelled.ids.extend(parts)
            spelled.offsets.extend([(start, end)] * len(parts))
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


class Spelling(NamedTuple):
    """Decoding of a tokenizer: ``spell`` gives a token's bytes; ``drops_space``: the first token's space is dropped."""

    spell: Callable[[int], bytes]
    drops_space: bool


def spelling_of(backend: tokenizers.Tokenizer, source: str) -> Spelling:
    """Return how ``backend``'s tokens are spelled; ``source`` names its file in errors.

    Raises `UnsupportedModelError` for a kind of decoder that is not known here.
    """
    decoders = _decoders(backend)
    kinds = {decoder["type"] for decoder in decoders}
    if "ByteLevel" in kinds:
        literal = {token: text.content for token, text in backend.get_added_tokens_decoder().items()}
        spell = byte_level_spelling(backend.id_to_token, literal)
    elif "WordPiece" in kinds:
        return Spelling(_word_spelling(backend), drops_space=True)
    elif kinds & {"ByteFallback", "Metaspace"} or _replaces_space(decoders):
        spell = piece_spelling(backend.id_to_token, _byte_pieces(backend))
    else:
        raise UnsupportedModelError(
            f"the tokenizer in {source} decodes by {', '.join(sorted(kinds)) or 'nothing'}; known "
            "here: ByteLevel, ByteFallback, Metaspace, WordPiece. Use a model that has one of these."
        )
    return Spelling(spell, any(map(_drops_space, decoders)))


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


def _byte_pieces(backend: tokenizers.Tokenizer) -> dict[int, int | None]:
    found = ((backend.token_to_id(f"<0x{byte:02X}>"), byte) for byte in range(256))
    return {token: byte for token, byte in found if token is not None}


def _word_spelling(backend: tokenizers.Tokenizer) -> Callable[[int], bytes]:
    def spell(token: int) -> bytes:
        piece: str = backend.id_to_token(token) or ""
        continued = piece.startswith(CONTINUATION) and piece != CONTINUATION
        return piece.removeprefix(CONTINUATION).encode() if continued else f" {piece}".encode()

    return spell
