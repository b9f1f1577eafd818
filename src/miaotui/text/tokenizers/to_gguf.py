"""Metadata of a GGUF file for the tokenizer and the chat template of a model's folder.

Owns the way from ``tokenizer.json`` to the ``tokenizer.ggml.*`` keys, for BPE over bytes and for SentencePiece's BPE.
Knows no tensors. Invariant:
the tokenizer that the metadata describe has the folder's tokens and cuts texts as the folder's does; what cannot be
said in a GGUF file's keys is refused.
Source: the GGUF specification; the names of cuts are those of llama.cpp's converter.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from miaotui.errors import UnsupportedModelError
from miaotui.hub.writers.gguf_metadata import MetadataValue
from miaotui.text.chat import DEFAULT
from miaotui.text.templates.sources import TEMPLATE_KEY, folder_templates
from miaotui.text.tokenizers.comparison import same_tokens
from miaotui.text.tokenizers.from_folder import from_folder
from miaotui.text.tokenizers.from_gguf import from_gguf
from miaotui.text.tokenizers.gguf_vocabulary import TokenType
from miaotui.text.tokenizers.huggingface import load_backend
from miaotui.text.tokenizers.pretokenizer import GPT2_PATTERN, SINGLE_DIGITS, cut_names
from miaotui.text.tokenizers.sentencepiece import byte_of
from miaotui.text.tokenizers.tokenizer import Tokenizer

CONVERTER = "convert it to a GGUF file with llama.cpp's convert_hf_to_gguf.py first"


def tokenizer_metadata(folder: Path, vocab_size: int) -> dict[str, MetadataValue]:
    """Return the metadata of the tokenizer in ``folder``; ids up to ``vocab_size`` that it lacks become unused.

    Raises `UnsupportedModelError` for another kind than BPE or unknown cuts, `ModelFormatError` for a
    damaged file, `ModelNotFoundError` for none.
    """
    own = from_folder(folder)
    values = json.loads(load_backend(folder / "tokenizer.json").to_str())
    model = values.get("model") or {}
    if model.get("type") != "BPE" or not model.get("merges"):
        raise UnsupportedModelError(
            f"the tokenizer in {folder} is no BPE, and only that is written to GGUF files here: {CONVERTER}"
        )
    metadata = _vocabulary(values, model, max(vocab_size, own.vocab_size)) | _roles(own)
    metadata |= {
        (TEMPLATE_KEY if name == DEFAULT else f"{TEMPLATE_KEY}.{name}"): text
        for name, text in folder_templates(folder).items()
    }
    if model.get("byte_fallback"):
        metadata |= _scored(metadata, model, own.roles.drops_space)
        if same_tokens(own, from_gguf(metadata)):
            return metadata
    for name in cut_names(_patterns(values), bool(model.get("ignore_merges")), _composes(values)):
        found = metadata | {"tokenizer.ggml.pre": name}
        if same_tokens(own, from_gguf(found)):
            return found
    raise UnsupportedModelError(
        f"the tokenizer in {folder} cuts texts in a way that has no name in GGUF files here: {CONVERTER}"
    )


def _vocabulary(values: Mapping[str, Any], model: Mapping[str, Any], size: int) -> dict[str, MetadataValue]:
    tokens = [f"[PAD{number}]" for number in range(size)]
    kinds = [int(TokenType.UNUSED)] * size
    for text, token in model["vocab"].items():
        kind = TokenType.NORMAL if byte_of(text) is None or not model.get("byte_fallback") else TokenType.BYTE
        tokens[token], kinds[token] = text, int(kind)
    for added in values.get("added_tokens") or ():
        kind = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
        kind = TokenType.UNKNOWN if added["content"] == model.get("unk_token") else kind
        tokens[added["id"]], kinds[added["id"]] = added["content"], int(kind)
    merges = [each if isinstance(each, str) else " ".join(each) for each in model["merges"]]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": merges,
    }


def _scored(metadata: Mapping[str, Any], model: Mapping[str, Any], adds_space: bool) -> dict[str, MetadataValue]:
    """Return what describes SentencePiece's BPE: pieces that are merged sooner have a higher score."""
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    scores = dict.fromkeys(tokens, -float(len(model["merges"])))
    for rank in range(len(model["merges"]) - 1, -1, -1):  # of several merges into one piece the first counts
        scores["".join(metadata["tokenizer.ggml.merges"][rank].split(" "))] = -float(rank)
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.scores": [scores[text] for text in tokens],
        "tokenizer.ggml.add_space_prefix": adds_space,
    }


def _roles(own: Tokenizer) -> dict[str, MetadataValue]:
    roles, eos = own.roles, own.eos_id
    found: dict[str, MetadataValue] = {
        "tokenizer.ggml.add_bos_token": bool(roles.prefix),
        "tokenizer.ggml.add_eos_token": bool(roles.suffix),
    }
    others = sorted(roles.eos_ids - {eos})
    named = {"bos": roles.bos_id, "eos": eos, **dict(zip(("eot", "eom"), others, strict=False))}
    return found | {f"tokenizer.ggml.{name}_token_id": token for name, token in named.items() if token is not None}


def _patterns(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the patterns that cut a text into words; () for steps that are not known here."""
    step = values.get("pre_tokenizer") or {}
    steps = step["pretokenizers"] if step.get("type") == "Sequence" else [step]
    found: list[str] = []
    for each in steps:
        kind, pattern = each.get("type"), (each.get("pattern") or {}).get("Regex")
        if kind == "Split" and pattern and each.get("behavior") == "Isolated" and not each.get("invert"):
            found.append(pattern)
        elif kind == "ByteLevel" and not each.get("add_prefix_space"):
            found += [GPT2_PATTERN] if each.get("use_regex", True) else []
        elif kind == "Digits" and each.get("individual_digits"):
            found.append(SINGLE_DIGITS)
        else:
            return ()
    return tuple(found)


def _composes(values: Mapping[str, Any]) -> bool | None:
    """Return whether texts are composed (NFC) before; None for any other change of them."""
    step = values.get("normalizer")
    return False if not step else True if step.get("type") == "NFC" else None
