"""The two libraries that answers could be held to a grammar with, side by side.

Owns the schemas and texts, and one walk through each text per library. Each library runs in a
process of its own, with whatever interpreter it is installed for; the vocabulary comes from a file
that the first command writes. The last line is JSON.

    python -m benchmarks.decode.grammar_libraries vocabulary smollm2-135m words.json
    python -m benchmarks.decode.grammar_libraries llguidance words.json
    python-with-xgrammar benchmarks/decode/grammar_libraries.py xgrammar words.json
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

NODE = {
    "type": "object",
    "properties": {"label": {"type": "string"}, "children": {"type": "array", "items": {"$ref": "#/$defs/node"}}},
    "required": ["label", "children"],
    "additionalProperties": False,
}
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "email": {"type": "string"},
    },
    "required": ["name", "age", "email"],
    "additionalProperties": False,
}
KINDS = ({"type": "string"}, {"type": "integer"}, {"type": "boolean"}, {"enum": ["a", "b"]})
FIELDS = {f"field_number_{i}": KINDS[i % 4] for i in range(40)}
WIDE = {"type": "object", "properties": FIELDS, "required": list(FIELDS), "additionalProperties": False}
VALUES = ("some text here, with words of English in it", 17, True, "b")
LEAF = {"label": "a leaf of the tree", "children": []}
CASES: dict[str, tuple[Any, Any]] = {
    "person": (PERSON, {"name": "Ada Lovelace", "age": 36, "email": "ada@example.org"}),
    "40 fields": (WIDE, {name: VALUES[i % 4] for i, name in enumerate(FIELDS)}),
    "recursive": (
        {"$defs": {"node": NODE}, "$ref": "#/$defs/node"},
        {"label": "root", "children": [LEAF, {"label": "b", "children": [LEAF]}]},
    ),
    "any object": ({"type": "object"}, {"title": "A walk", "tags": ["green"], "rating": 4.5}),
}
Start = Callable[[str], tuple[Callable[[], Any], Callable[[int], bool]]]  # a schema: mask, accept


def write_vocabulary(model: str, path: Path) -> None:
    """The bytes of every token, and which of them end a text or are no text."""
    from miaotui.hub.resolve import resolve
    from miaotui.model.reading.files import open_model
    from miaotui.text.load import load_tokenizer

    with open_model(resolve(model)) as files:
        tokenizer = load_tokenizer(files.metadata, files.folder)
    words = [tokenizer.token_bytes(i).hex() for i in range(tokenizer.vocab_size)]
    markers = sorted(tokenizer.special_ids | tokenizer.eos_ids)
    found = {"words": words, "ends": sorted(tokenizer.eos_ids), "markers": markers}
    path.write_text(json.dumps(found), encoding="utf-8")


class Vocabulary:
    """Tokens as the libraries want them; the greedy cut stands for the model's own."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, path: Path) -> None:
        found = json.loads(path.read_text(encoding="utf-8"))
        self.words = [bytes.fromhex(word) for word in found["words"]]
        self.ends, self.special_token_ids = found["ends"], found["markers"]
        self.eos_token_id = self.ends[0]
        hidden = set(self.special_token_ids)
        self.tokens = [b"\xff" + w if i in hidden else w for i, w in enumerate(self.words)]
        self._ids = {word: i for i, word in enumerate(self.words) if i not in hidden and word}

    def __call__(self, text: str) -> list[int]:
        rest, ids = text.encode(), []
        while rest:
            size = next(n for n in range(len(rest), 0, -1) if rest[:n] in self._ids)
            ids.append(self._ids[rest[:size]])
            rest = rest[size:]
        return ids


def with_llguidance(vocabulary: Vocabulary) -> Start:
    from llguidance import LLMatcher, LLTokenizer

    read: Any = vocabulary  # the library reads its attributes
    view = LLTokenizer(read, n_vocab=len(vocabulary.words), eos_token=vocabulary.ends)
    room = bytearray((len(vocabulary.words) + 31) // 32 * 4)
    address = ctypes.addressof(ctypes.c_char.from_buffer(room))
    options: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}

    def start(schema: str) -> tuple[Callable[[], Any], Callable[[int], bool]]:
        grammar = LLMatcher.grammar_from_json_schema(schema, overrides=options)
        matcher = LLMatcher(view, grammar, log_level=0)
        return lambda: matcher.unsafe_compute_mask_ptr(address, len(room)), matcher.consume_token

    return start


def with_xgrammar(vocabulary: Vocabulary) -> Start:
    import xgrammar

    hidden = set(vocabulary.special_token_ids)
    words = [b"" if i in hidden else word for i, word in enumerate(vocabulary.words)]
    info = xgrammar.TokenizerInfo(words, vocab_type=xgrammar.VocabType.RAW, stop_token_ids=vocabulary.ends)
    compiler = xgrammar.GrammarCompiler(info, cache_enabled=False)
    mask = xgrammar.allocate_token_bitmask(1, len(words))

    def start(schema: str) -> tuple[Callable[[], Any], Callable[[int], bool]]:
        compiled = compiler.compile_json_schema(schema, any_whitespace=False, separators=(", ", ": "))
        matcher = xgrammar.GrammarMatcher(compiled)
        return lambda: matcher.fill_next_token_bitmask(mask), matcher.accept_token

    return start


def measure(start: Start, vocabulary: Vocabulary, rounds: int = 5) -> dict[str, dict[str, float]]:
    """Compile times and mask times of every case."""
    found = {}
    for name, (schema, value) in CASES.items():
        ids = [*vocabulary(json.dumps(value)), vocabulary.eos_token_id]
        compiling, masks = [], []
        for _ in range(rounds):
            begun = time.perf_counter()
            mask, accept = start(json.dumps(schema))
            compiling.append((time.perf_counter() - begun) * 1e3)
            for token in ids:
                begun = time.perf_counter()
                mask()
                masks.append((time.perf_counter() - begun) * 1e6)
                assert accept(token), f"{name}: a valid text was refused"
        masks.sort()
        found[name] = {
            "tokens": len(ids),
            "compile_ms": round(sorted(compiling)[rounds // 2], 2),
            "mask_p50_us": round(masks[len(masks) // 2], 1),
            "mask_p99_us": round(masks[int(len(masks) * 0.99)], 1),
        }
    return found


def main() -> None:
    """Write a vocabulary, or measure one library with it."""
    what, *rest = sys.argv[1:]
    if what == "vocabulary":
        write_vocabulary(rest[0], Path(rest[1]))
        return
    vocabulary = Vocabulary(Path(rest[0]))
    begun = time.perf_counter()
    __import__(what)
    imported = time.perf_counter()
    start = {"llguidance": with_llguidance, "xgrammar": with_xgrammar}[what](vocabulary)
    ready = time.perf_counter()
    cases = measure(start, vocabulary)
    for name, case in cases.items():
        print(f"{name:12}" + "".join(f"  {key} {value}" for key, value in case.items()))
    print(f"import {imported - begun:.2f} s, view of the vocabulary {ready - imported:.2f} s")
    seconds = {"import_s": round(imported - begun, 3), "view_s": round(ready - imported, 3)}
    print(json.dumps({"library": what, **seconds, "cases": cases}))


if __name__ == "__main__":
    main()
