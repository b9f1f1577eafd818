"""Ways to spoil a model's files, each as a function that takes a good model and makes it bad.

`BROKEN_GGUF` and `BROKEN_FOLDERS` map what is wrong to a spoiler; `HOSTILE_TOKENIZERS` change a
``tokenizer.json`` that the library itself accepts. `nonsense` walks a JSON document and puts a value
of the wrong kind in each place in turn.
"""

from __future__ import annotations

import copy
import json
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Json = dict[str, Any]
Spoiler = Callable[[Path], object]

VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1,
    2**31,
    2**63,
    10**19,
    1e308,
    -1e308,
    0.5,
    "",
    "x",
    "\ud800",
    [],
    {},
    [1],
    {"a": 1},
    ["x"],
    [None],
)


def nonsense(document: Json, each: int) -> Iterator[tuple[str, Json]]:
    """(what was done, the document with one value replaced), ``each`` values for each place."""
    turn = 0
    for place in _places(document, ()):
        for _ in range(each):
            turn += 7
            value = VALUES[turn % len(VALUES)]
            yield f"{place} = {value!r}", _with(document, place, value)


def _places(value: Any, before: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    keys: Any = value.keys() if isinstance(value, dict) else ()
    if isinstance(value, list) and len(value) < 20:
        keys = range(len(value))
    for key in list(keys)[:40]:  # of a vocabulary, some
        yield (*before, key)
        yield from _places(value[key], (*before, key))


def _with(document: Json, place: tuple[Any, ...], value: Any) -> Json:
    changed = copy.deepcopy(document)
    inner: Any = changed
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return changed


# GGUF files ---------------------------------------------------------------------------------------


def _cut(share: float) -> Spoiler:
    def spoil(path: Path) -> None:
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])

    return spoil


def _overwrite(at: int, new: bytes) -> Spoiler:
    def spoil(path: Path) -> None:
        data = path.read_bytes()
        path.write_bytes(data[:at] + new + data[at + len(new) :])

    return spoil


def _replace(old: bytes, new: bytes) -> Spoiler:
    """Change text of the header for text of the same length."""

    def spoil(path: Path) -> None:
        data = path.read_bytes()
        assert old in data
        assert len(old) == len(new)
        path.write_bytes(data.replace(old, new, 1))

    return spoil


def _after(key: bytes, new: bytes) -> Spoiler:
    """Overwrite what follows a key: its type, then its value."""

    def spoil(path: Path) -> None:
        data = path.read_bytes()
        at = data.index(key) + len(key)
        path.write_bytes(data[:at] + new + data[at + len(new) :])

    return spoil


def _number(kind: int, value: int) -> bytes:
    return struct.pack("<II", kind, value)


def _weights(value: float) -> Spoiler:
    """Every float behind the header's first tensor becomes ``value``."""

    def spoil(path: Path) -> None:
        data = path.read_bytes()
        floats = np.full(2000, value, "<f4").tobytes()
        path.write_bytes(data[: -len(floats)] + floats)

    return spoil


BROKEN_GGUF: dict[str, Spoiler] = {
    "empty": lambda path: path.write_bytes(b""),
    "four bytes": lambda path: path.write_bytes(b"GGUF"),
    "half a header": _cut(0.02),
    "half the tensors": _cut(0.5),
    "all but the end": _cut(0.999),
    "another magic": _overwrite(0, b"PK\3\4"),
    "a web page": lambda path: path.write_bytes(b"<!DOCTYPE html><html>Not found"),
    "version 1": _overwrite(4, struct.pack("<I", 1)),
    "version 99": _overwrite(4, struct.pack("<I", 99)),
    "big endian": _overwrite(4, struct.pack(">I", 3)),
    "2**63 tensors": _overwrite(8, struct.pack("<Q", 2**63)),
    "2**64 - 1 keys": _overwrite(16, struct.pack("<Q", 2**64 - 1)),
    "a string of 2**63 bytes": _overwrite(24, struct.pack("<Q", 2**63)),
    "an unknown architecture": _replace(b"llama", b"mamba"),
    "no tokenizer": _replace(b"tokenizer.ggml.model", b"tokenizer.ggml.nodel"),
    "no tokens": _replace(b"tokenizer.ggml.tokens", b"tokenizer.ggml.nokens"),
    "no merges": _replace(b"tokenizer.ggml.merges", b"tokenizer.ggml.nerges"),
    "an unknown tokenizer": _replace(b"\x04\0\0\0\0\0\0\0gpt2", b"\x04\0\0\0\0\0\0\0gpt9"),
    "2**31 layers": _after(b"llama.block_count", _number(4, 2**31)),
    "no layers": _after(b"llama.block_count", _number(4, 0)),
    "one layer too many": _after(b"llama.block_count", _number(4, 4)),
    "heads that do not divide": _after(b"llama.attention.head_count", _number(4, 3)),
    "a hidden size of 2**31": _after(b"llama.embedding_length", _number(4, 2**31)),
    "an end beyond the tokens": _after(b"tokenizer.ggml.eos_token_id", _number(4, 2**31)),
    "an unknown tensor type": _after(b"output_norm.weight", struct.pack("<IQI", 1, 64, 31)),
    "a tensor of 2**62": _after(b"output_norm.weight", struct.pack("<IQI", 1, 2**62, 0)),
    "weights that are not numbers": _weights(float("nan")),
    "infinite weights": _weights(float("inf")),
    "weights beyond float16": _weights(3e38),
}


# folders ------------------------------------------------------------------------------------------


def _without(name: str) -> Spoiler:
    return lambda folder: (folder / name).unlink()


def _text(name: str, text: str) -> Spoiler:
    return lambda folder: (folder / name).write_text(text, encoding="utf-8")


def _changed(name: str, change: Callable[[Json], None]) -> Spoiler:
    def spoil(folder: Path) -> None:
        document = json.loads((folder / name).read_text(encoding="utf-8"))
        change(document)
        (folder / name).write_text(json.dumps(document), encoding="utf-8")

    return spoil


def _set(**values: Any) -> Callable[[Json], None]:
    return lambda document: document.update(values)


def _half(name: str) -> Spoiler:
    return lambda folder: _cut(0.5)(folder / name)


def _pipe(name: str) -> Spoiler:
    """A pipe in the file's place: whoever opens it waits for ever."""

    def spoil(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).parent.mkdir(exist_ok=True)
        os.mkfifo(folder / name)

    return spoil


def _endless(name: str) -> Spoiler:
    def spoil(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).symlink_to("/dev/zero")

    return spoil


BROKEN_FOLDERS: dict[str, Spoiler] = {
    "no config": _without("config.json"),
    "no weights": _without("model.safetensors"),
    "no tokenizer": _without("tokenizer.json"),
    "half a config": _half("config.json"),
    "half of the weights": _half("model.safetensors"),
    "half a tokenizer": _half("tokenizer.json"),
    "a config that is a list": _text("config.json", "[1]"),
    "a config of brackets": _text("config.json", '{"a":' * 10**5),
    "a config of digits": _text("config.json", '{"vocab_size":' + "9" * 10**6 + "}"),
    "a template file of brackets": _text("tokenizer_config.json", "[" * 10**5),
    "an unknown architecture": _changed("config.json", _set(model_type="mamba")),
    "another size": _changed("config.json", _set(hidden_size=128)),
    "half a character as a token": _changed("tokenizer_config.json", _set(eos_token="\ud800")),
    "a pipe as weights": _pipe("model.safetensors"),
    "a pipe as a template": _pipe("additional_chat_templates/x.jinja"),
    "an endless template": _endless("additional_chat_templates/x.jinja"),
    "an endless tokenizer": _endless("tokenizer.json"),
}


# tokenizers that the library accepts --------------------------------------------------------------


def _replacement(pattern: Json, content: str) -> Json:
    return {"type": "Replace", "pattern": pattern, "content": content}


def _normalizer(*steps: Json) -> Callable[[Json], None]:
    return _set(normalizer={"type": "Sequence", "normalizers": list(steps)})


def _huge_id(document: Json) -> None:
    document["model"]["vocab"]["a"] = 2**32 - 1


def _endless_pattern(document: Json) -> None:
    split = {"type": "Split", "pattern": {"Regex": "(a|a|a)*$"}, "behavior": "Isolated", "invert": False}
    before = document["pre_tokenizer"]
    document["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, before]}


HOSTILE_TOKENIZERS: dict[str, Callable[[Json], None]] = {
    "one character becomes a million": _normalizer(_replacement({"String": "a"}, "x" * 10**6)),
    "each step makes it 64 times longer": _normalizer(*[_replacement({"String": "a"}, "a" * 64)] * 6),
    "nothing becomes much": _normalizer(_replacement({"Regex": ""}, "x" * 1000)),
    "50 MB in front": _normalizer({"type": "Prepend", "prepend": "x" * (50 << 20)}),
    "a token number of 2**32": _huge_id,
    "a pattern that never ends": _endless_pattern,
    "a model that knows no such word": lambda document: document.update(
        model={"type": "WordLevel", "vocab": {"b": 0}, "unk_token": "?"}
    ),
}
