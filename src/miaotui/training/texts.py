"""Lines of text files, and a tokenizer that is trained on them.

Owns the bounds. Knows no model. Invariant: every text can be written in the tokenizer, byte by byte if need be.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from miaotui.errors import RequestError
from miaotui.hub.files import regular_size
from miaotui.libraries import need


def text_lines(path: Path, most_bytes: int) -> list[str]:
    """Return the lines of a file in UTF-8 that are not empty. Raises `RequestError` for what is no text."""
    return [line for _, line in numbered_lines(path, most_bytes)]


def numbered_lines(path: Path, most_bytes: int) -> list[tuple[int, str]]:
    """Return them with their numbers in the file, from 1.

    Only a line feed ends a line (with or without a carriage return): JSON may hold Unicode's other separators.
    """
    try:
        if regular_size(path) > most_bytes:
            raise RequestError(f"{path} has more than {most_bytes >> 20} MB: train on a part of it")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path} cannot be read as UTF-8 text ({error}): name a text file") from None
    if "\0" in text:
        raise RequestError(f"{path} holds bytes that no text has: name a text file in UTF-8")
    return [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def train_tokenizer(lines: Sequence[str], vocabulary: int, specials: Sequence[str]) -> Any:
    """Train a byte-level BPE of the tokenizers library; ``specials`` are its first tokens."""
    library = need("tokenizers")
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = library.decoders.ByteLevel()
    alphabet = library.pre_tokenizers.ByteLevel.alphabet()
    trainer = library.trainers.BpeTrainer(
        vocab_size=max(vocabulary, len(alphabet) + len(specials)),
        special_tokens=list(specials),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    return tokenizer
