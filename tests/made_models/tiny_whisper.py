"""A tiny random Whisper, made without torch: a folder as transformers writes it, with a byte-level tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miaotui.hub.formats.tensors import BlockType, StoredTensor
from miaotui.model.seq2seq.names import CONVOLUTIONS, seq2seq_shapes
from miaotui.model.seq2seq.reading.from_hf import seq2seq_config_from_hf, stored_names
from tiny_models import _write_safetensors
from tiny_seq2seq import _drawn
from tiny_tokenizer import MERGES, byte_alphabet

Array = NDArray[np.float32]
MEL_BINS, SOURCE_ROWS = 16, 24
EOT = 256 + len(MERGES)  # behind the bytes and what they are merged to
SOT, *_LANGUAGES = range(EOT + 1, EOT + 5)
LANGUAGES = dict(zip(("en", "zh", "de"), _LANGUAGES, strict=True))
TRANSLATE, TRANSCRIBE, START_OF_LM, PREVIOUS, NO_SPEECH, NO_TIMESTAMPS = range(EOT + 5, EOT + 11)
TIMESTAMPS = NO_TIMESTAMPS + 1
VOCAB = TIMESTAMPS + SOURCE_ROWS + 1
SPECIALS = {
    EOT: "<|endoftext|>",
    SOT: "<|startoftranscript|>",
    **{token: f"<|{code}|>" for code, token in LANGUAGES.items()},
    TRANSLATE: "<|translate|>",
    TRANSCRIBE: "<|transcribe|>",
    START_OF_LM: "<|startoflm|>",
    PREVIOUS: "<|startofprev|>",
    NO_SPEECH: "<|nospeech|>",
    NO_TIMESTAMPS: "<|notimestamps|>",
}
VALUES: dict[str, Any] = {
    "model_type": "whisper",
    "architectures": ["WhisperForConditionalGeneration"],
    "vocab_size": VOCAB,
    "d_model": 64,
    "num_mel_bins": MEL_BINS,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 128,
    "max_source_positions": SOURCE_ROWS,
    "max_target_positions": 40,
    "activation_function": "gelu",
    "is_encoder_decoder": True,
    "decoder_start_token_id": SOT,
    "eos_token_id": EOT,
    "pad_token_id": EOT,
    "bos_token_id": EOT,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
}


def whisper_arrays(seed: int = 0) -> dict[str, Array]:
    """Random tensors under transformers' names."""
    table = "model.decoder.embed_tokens.weight"
    hints = {
        name: StoredTensor.from_bytes(name, (1, 1), BlockType.F32, np.zeros(4, np.uint8))
        for name in (table, "model.encoder.layers.0.self_attn.out_proj.weight")
    }
    config = seq2seq_config_from_hf(VALUES, hints)
    shapes, rng = seq2seq_shapes(config), np.random.default_rng(seed)
    arrays = {}
    for name, stored in stored_names(config, VALUES, hints).items():
        if name.endswith((".k_bias", ".cross_k_bias")):
            continue
        drawn = _drawn(rng, name, shapes[name])
        if name in CONVOLUTIONS:
            drawn = np.ascontiguousarray(drawn.reshape(len(drawn), 3, -1).transpose(0, 2, 1))
        arrays[stored] = drawn
    return arrays


def whisper_folder(folder: Path, seed: int = 0) -> Path:
    """Write a model as transformers does."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(VALUES))
    _write_safetensors(folder / "model.safetensors", whisper_arrays(seed))
    write_whisper_tokenizer(folder)
    return folder


def sound_frames(count: int = 1, rows: int = SOURCE_ROWS) -> list[Array]:
    """Frames of ``count`` sources."""
    rng = np.random.default_rng(6)
    return [rng.standard_normal((2 * rows, MEL_BINS)).astype(np.float32) for _ in range(count)]


def write_whisper_tokenizer(folder: Path) -> None:
    """Write tokenizer.json: 256 bytes, merges of two, and the special tokens behind them."""
    pieces = byte_alphabet() + [merge.replace(" ", "") for merge in MERGES]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = {
        "type": "BPE",
        "vocab": {piece: token for token, piece in enumerate(pieces)},
        "merges": MERGES,
        "unk_token": None,
        "dropout": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
    }
    file = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": token, "content": text, **flags} for token, text in SPECIALS.items()],
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": None,
        "decoder": level,
        "model": model,
    }
    (folder / "tokenizer.json").write_text(json.dumps(file))
