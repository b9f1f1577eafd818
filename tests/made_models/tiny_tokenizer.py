"""A byte-level tokenizer of 320 tokens for the tiny models, as ``tokenizer.json`` or GGUF metadata.

Ids 0-255 are the bytes in the order of GPT-2's alphabet, then a few merges, then fillers, and three
markers of the ChatML template at the end. It encodes every text and decodes back to it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

VOCAB_SIZE = 320
START, END, EOS = 317, 318, 319
SPECIALS = {START: "<|im_start|>", END: "<|im_end|>", EOS: "<|endoftext|>"}
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content']"
    " + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
MERGES = ["h e", "t he", "i n", "e r", "o n", "Ġ the", "a n", "Ġ a", "r e", "an d"]


def byte_alphabet() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes, by byte value."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def tokens() -> list[str]:
    """All tokens by id."""
    pieces = byte_alphabet() + [merge.replace(" ", "") for merge in MERGES]
    fillers = [f"<unused{i}>" for i in range(VOCAB_SIZE - len(pieces) - len(SPECIALS))]
    return pieces + fillers + [SPECIALS[i] for i in sorted(SPECIALS)]


def write_tokenizer(folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and generation_config.json."""
    added = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": text, "special": True, **added} for i, text in SPECIALS.items()],
        "normalizer": None,
        "pre_tokenizer": {**byte_level, "use_regex": True},
        "post_processor": None,
        "decoder": {**byte_level, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(tokens()) if i not in SPECIALS},
            "merges": MERGES,
        },
    }
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": SPECIALS[END],
        "pad_token": SPECIALS[EOS],
        "chat_template": CHAT_TEMPLATE,
    }
    _write(folder / "tokenizer.json", tokenizer)
    _write(folder / "tokenizer_config.json", config)
    _write(folder / "generation_config.json", {"eos_token_id": [END, EOS]})


def tokenizer_metadata() -> dict[str, Any]:
    """The same tokenizer as GGUF metadata."""
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens(),
        "tokenizer.ggml.token_type": [_type(i, token) for i, token in enumerate(tokens())],
        "tokenizer.ggml.merges": MERGES,
        "tokenizer.ggml.eos_token_id": END,
        "tokenizer.ggml.padding_token_id": EOS,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }


def _type(token_id: int, token: str) -> int:
    """GGUF's kinds: 1 normal, 3 control, 5 unused."""
    if token_id in SPECIALS:
        return 3
    return 5 if token.startswith("<unused") else 1


def _write(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")
