"""Small tokenizers of four kinds that all have the control tokens of `chat_styles`."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from chat_styles import CONTROLS, OTHERS
from small_vocabularies import CONTROL, SENTENCES, USER_DEFINED, byte_level, sentencepiece_model
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from miaotui.text.tokenizers.from_folder import from_folder
from miaotui.text.tokenizers.from_gguf import from_gguf
from miaotui.text.tokenizers.tokenizer import Tokenizer


def _with_controls(metadata: dict[str, Any]) -> dict[str, Any]:
    """GGUF metadata with the control tokens behind the others."""
    known = metadata["tokenizer.ggml.tokens"]
    controls = [each for each in CONTROLS if each not in known]
    others = [each for each in OTHERS if each not in known]
    types = [*metadata["tokenizer.ggml.token_type"], *[CONTROL] * len(controls), *[USER_DEFINED] * len(others)]
    more = {
        "tokenizer.ggml.tokens": [*known, *controls, *others],
        "tokenizer.ggml.token_type": np.array(types, np.int32),
    }
    if "tokenizer.ggml.scores" in metadata:
        scores = [*metadata["tokenizer.ggml.scores"], *[0.0] * (len(controls) + len(others))]
        more["tokenizer.ggml.scores"] = np.array(scores, np.float32)
    return {**metadata, **more}


def _folder(backend: Backend) -> Tokenizer:
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in CONTROLS])
    backend.add_tokens([AddedToken(text, special=False, normalized=False) for text in OTHERS])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        backend.save(str(path / "tokenizer.json"))
        (path / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
        return from_folder(path)


def _byte_folder() -> Tokenizer:
    metadata = byte_level()
    vocab = {token: index for index, token in enumerate(metadata["tokenizer.ggml.tokens"][:-2])}
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    backend = Backend(models.BPE(vocab, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return _folder(backend)


def _piece_folder(metaspace: bool) -> Tokenizer:
    backend = Backend(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    if metaspace:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        backend.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
    else:
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        backend.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
    special = ["<unk>", "<s>", "</s>"]
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=[*special, *bytes_], limit_alphabet=60, show_progress=False
    )
    backend.train_from_iterator(SENTENCES, trainer)
    state = json.loads(backend.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in special]
    return _folder(Backend.from_str(json.dumps(state)))


def _phi3() -> Tokenizer:
    """Pieces from GGUF whose markers swallow the whitespace behind them."""
    return from_gguf(_with_controls(sentencepiece_model()[1]) | {"general.architecture": "phi3"})


TOKENIZERS: dict[str, Tokenizer] = {
    "bytes, gguf": from_gguf(_with_controls(byte_level())),
    "bytes, folder": _byte_folder(),
    "pieces, gguf": from_gguf(_with_controls(sentencepiece_model()[1])),
    "pieces without a space, gguf": from_gguf(_with_controls(sentencepiece_model(add_space=False)[1])),
    "swallowing pieces, gguf": _phi3(),
    "pieces, folder": _piece_folder(metaspace=False),
    "pieces by metaspace, folder": _piece_folder(metaspace=True),
}
