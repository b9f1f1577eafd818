"""Coverage-guided fuzzing of the small files of encoders' folders: tokenizers and modules, with atheris (libFuzzer).

Run ``python tests/fuzz/fuzz_encoder_folders.py -max_total_time=60``; other options are libFuzzer's. An input that leads
to anything but rows of tokens, settings, or an error on purpose is written to ``crash-*`` and ends the run. The first
byte of an input says which file the rest of it is.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import atheris
from fuzzing import fuzz

with atheris.instrument_imports(include=["miaotui"]):
    from miaotui.errors import ModelError, RequestError
    from miaotui.model.encoder.containers.sentence_transformers import read_sentence_folder
    from miaotui.text.encoders.load import load_encoder_tokenizer

MEMORY_MIB = 1024
SECONDS_PER_INPUT = 10
TEXTS = ("", "the dog runs", "模型 mixed 文本", "[MASK] <s> \x00 ﬁ")
FILES = (
    "tokenizer.json",
    "vocab.txt",
    "tokenizer_config.json",
    "modules.json",
    "1_Pooling/config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
)
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "dog", "run", "##s", "a"]
FOLDER = Path(tempfile.mkdtemp())


def contents() -> dict[str, bytes]:
    """Valid files of a folder, by name; the folder has ``vocab.txt`` or ``tokenizer.json``."""
    from tokenizers import BertWordPieceTokenizer  # noqa: PLC0415 - seeds only

    library = BertWordPieceTokenizer({word: i for i, word in enumerate(WORDS)})
    return {
        "tokenizer.json": library.to_str().encode(),
        "vocab.txt": "\n".join(WORDS).encode(),
        "tokenizer_config.json": json.dumps({"do_lower_case": True, "mask_token": "[MASK]"}).encode(),
        "modules.json": json.dumps(MODULES).encode(),
        "1_Pooling/config.json": json.dumps({"pooling_mode_cls_token": True}).encode(),
        "sentence_bert_config.json": json.dumps({"max_seq_length": 16, "do_lower_case": False}).encode(),
        "config_sentence_transformers.json": json.dumps({"prompts": {"query": "q: "}}).encode(),
    }


VALID = contents()


def test_one_input(content: bytes) -> None:
    """libFuzzer's entry: only errors on purpose may come out of a reader."""
    changed = FILES[content[0] % len(FILES)] if content else "vocab.txt"
    for name, valid in VALID.items():
        (FOLDER / name).parent.mkdir(exist_ok=True)
        (FOLDER / name).write_bytes(content[1:] if name == changed else valid)
    if changed == "vocab.txt":
        (FOLDER / "tokenizer.json").unlink()
    try:
        read_sentence_folder(FOLDER)
        tokenizer = load_encoder_tokenizer(None, FOLDER)
        for text in TEXTS:
            rows = tokenizer.encode_text(text, max_tokens=64, truncate=True)
            assert len(rows.tokens) == len(rows.types) == len(rows.special)
    except (ModelError, RequestError) as error:
        assert str(error)  # noqa: PT017 - libFuzzer wants no exception


if __name__ == "__main__":
    fuzz(test_one_input, (bytes([i]) + VALID[name] for i, name in enumerate(FILES)), MEMORY_MIB, SECONDS_PER_INPUT)
