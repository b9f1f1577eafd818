"""Tiny tokenizers and models whose vocabulary has the control tokens of a family that fills in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tiny_models import make_tiny_folder
from tiny_tokenizer import tokens

QWEN = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|file_sep|>", "<|repo_name|>", "<|fim_pad|>")
FIRST = next(index for index, text in enumerate(tokens()) if text.startswith("<unused"))


def add_controls(folder: Path, texts: Sequence[str]) -> None:
    """Give unused ids of a folder's tokenizer to these control tokens."""
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    for number, text in enumerate(texts):
        tokenizer["model"]["vocab"][text] = tokenizer["model"]["vocab"].pop(f"<unused{number}>")
        like = dict(tokenizer["added_tokens"][0])
        tokenizer["added_tokens"].append({**like, "id": FIRST + number, "content": text})
    path.write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")


def make_infill_folder(folder: Path, texts: Sequence[str] = QWEN) -> Path:
    """A tiny random model that can fill in, as far as its tokenizer goes."""
    made = make_tiny_folder(folder, "llama")
    add_controls(made, texts)
    return made
