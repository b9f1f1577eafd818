"""Small tokenizers trained on text made here, each with its description as GGUF metadata."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import sentencepiece
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

SENTENCES = [
    "The quick brown fox jumps over the lazy dog; it's 12:34, and she'll run 1,234 miles.",
    "There is nothing there, and there are others who were never here before them.",
    "In 2024 the price rose from $19.99 to $24.50 (about 22.6%), didn't it?",
    "def encode(text):\n    return [ranks[pair] for pair in zip(text, text[1:])]\n\n\n",
    "秒推是一个语言模型引擎，一秒之内给出答案。你好，世界！今天天气很好。",
    "机器学习模型在处理器上运行得很快，答案在一秒之内给出。",
    "Größe, naïve café, ñandú, Ελληνικά, русский текст, 日本語のテキスト 😀 👍🏽",
    "tabs\tand  two   three    four spaces, 'quotes' and \"more\", A_b-c/d\\e",
] * 4

AWKWARD = [
    "",
    " ",
    "  ",
    "a",
    " a",
    "a ",
    "Hello, world!",
    "it's we'LL I'd THEY'RE don't",
    "0123456789 3.14159 1,000,000 42nd  7 8",
    "line\nline\r\nline\n\n\n   indented\n\tand tabbed\t\t\n ",
    "你好，世界！今天是2024年1月1日。",
    "混合 mixed 文本 with English，标点。",
    "😀👩‍👩‍👧🏽🇨🇳 emoji❤️",
    "e\u0301 é ﬁ ½ ² Ⅷ ٣ \u200b\u00a0\u3000\u2028",
    "\x00\x01\x1f\x7f\x85 control",
    "a" * 300,
    " " * 100 + "x",
    "<|im_start|>user\nhi<|im_end|> <s> </s> <0x0A> <unk>",
    "▁▁ literal ▁marks▁",
    "𝕏 \U0001f9d1\u200d\U0001f680 \U00010400",
]


def byte_level(vocab_size: int = 700) -> dict[str, Any]:
    """GGUF metadata of a byte-level BPE; the first three tokens are control tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    vocab = tokenizer.get_vocab()
    tokens = sorted(vocab, key=vocab.__getitem__)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    tokens += ["<think>", "  \n"]
    types = [CONTROL] * 3 + [NORMAL] * (len(tokens) - 5) + [USER_DEFINED] * 2
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array(types, np.int32),
        "tokenizer.ggml.merges": [m if isinstance(m, str) else " ".join(m) for m in merges],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


def sentencepiece_model(
    add_space: bool = True, byte_fallback: bool = True, symbols: tuple[str, ...] = ()
) -> tuple[sentencepiece.SentencePieceProcessor, dict[str, Any]]:
    """SentencePiece's own BPE, and the same as GGUF metadata.

    `symbols` are user-defined, with spaces written ``▁``; GGUF files write them as spaces.
    """
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_writer=model,
        model_type="bpe",
        vocab_size=700 if byte_fallback else 450,
        byte_fallback=byte_fallback,
        character_coverage=0.98,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=add_space,
        user_defined_symbols=list(symbols),
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    ids = range(processor.get_piece_size())
    return processor, {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [
            piece.replace("▁", " ") if piece in symbols else piece for piece in map(processor.id_to_piece, ids)
        ],
        "tokenizer.ggml.scores": np.array([processor.get_score(i) for i in ids], np.float32),
        "tokenizer.ggml.token_type": [_type(processor, i, symbols) for i in ids],
        "tokenizer.ggml.bos_token_id": np.uint32(processor.bos_id()),
        "tokenizer.ggml.eos_token_id": np.uint32(processor.eos_id()),
        "tokenizer.ggml.unknown_token_id": np.uint32(processor.unk_id()),
        "tokenizer.ggml.add_space_prefix": add_space,
    }


def _type(processor: sentencepiece.SentencePieceProcessor, token: int, symbols: tuple[str, ...]) -> int:
    if processor.is_unknown(token):
        return UNKNOWN
    if processor.is_control(token):
        return CONTROL
    if processor.is_byte(token):
        return BYTE
    return USER_DEFINED if processor.id_to_piece(token) in symbols else NORMAL
