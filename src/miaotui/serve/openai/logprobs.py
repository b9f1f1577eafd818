"""Log-probabilities in the two shapes that OpenAI's clients know.

Owns how tokens are written as text: bytes that are no whole character become U+FFFD, and the chat
shape gives the bytes as well. Invariant: every number is finite, since JSON has no infinity.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from miaotui.text.tokenizers.tokenizer import Tokenizer
from miaotui.types import TokenLogprobs

LEAST = -9999.0  # stands for a probability of zero


def chat_logprobs(tokenizer: Tokenizer, tokens: Sequence[TokenLogprobs]) -> dict[str, Any]:
    """The ``logprobs`` of a chat choice."""
    content = [
        {
            **_entry(tokenizer, token.token_id, token.logprob),
            "top_logprobs": [_entry(tokenizer, *best) for best in token.top],
        }
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def text_logprobs(tokenizer: Tokenizer, tokens: Sequence[TokenLogprobs], offset: int) -> tuple[dict[str, Any], int]:
    """The ``logprobs`` of a text choice whose next token begins at ``offset``; the offset after it."""
    texts = [_text(tokenizer.token_bytes(token.token_id)) for token in tokens]
    offsets = []
    for text in texts:
        offsets.append(offset)
        offset += len(text)
    tops = [{_text(tokenizer.token_bytes(best)): _finite(value) for best, value in token.top} for token in tokens]
    shape = {
        "tokens": texts,
        "token_logprobs": [_finite(token.logprob) for token in tokens],
        "top_logprobs": tops,
        "text_offset": offsets,
    }
    return shape, offset


def _entry(tokenizer: Tokenizer, token_id: int, logprob: float) -> dict[str, Any]:
    spelled = tokenizer.token_bytes(token_id)
    return {"token": _text(spelled), "logprob": _finite(logprob), "bytes": list(spelled)}


def _text(spelled: bytes) -> str:
    return spelled.decode("utf-8", "replace")


def _finite(logprob: float) -> float:
    return logprob if logprob > LEAST else LEAST
