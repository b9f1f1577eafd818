"""Explanations of an answer: who proposed each token, how likely it was, and when the steps were done.

Owns their shapes in chat answers. Knows no route. Invariant: there is one note for each token of the answer, in order,
and the pieces of a stream, joined, are the whole answer's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from miaotui.serve.openai.logprobs import finite
from miaotui.serve.wire.fields import Json
from miaotui.text.tokenizers.tokenizer import Tokenizer
from miaotui.types import Completion, Delta, TokenLogprobs

FROM_CACHE = "cache"  # the source of an answer that was kept


def token_notes(tokenizer: Tokenizer, piece: Delta | Completion) -> list[dict[str, Any]]:
    """Return one note for each token of a piece, or of a whole answer."""
    ids = piece.token_ids
    sources = piece.sources or (FROM_CACHE,) * len(ids)
    unscored = len(ids) - len(piece.logprobs)  # tokens that were known before
    return [
        {
            "id": token,
            "text": _text(tokenizer, token),
            "source": source,
            **(_scored(tokenizer, piece.logprobs[place - unscored]) if place >= unscored else {}),
        }
        for place, (token, source) in enumerate(zip(ids, sources, strict=True))
    ]


def timeline(whole: Completion) -> Json | None:
    """Return the time line of an answer; None for one that was kept."""
    times = whole.times
    if times is None:
        return None
    return {
        "queue_ms": _ms(times.queue_s),
        "prefill_ms": _ms(max(times.first_s - times.queue_s, 0.0)),
        "prompt_tokens": whole.prompt_tokens,
        "cached_tokens": whole.cached_tokens,
        "steps": [(_ms(ended_s), tokens, drafted) for ended_s, tokens, drafted in times.steps],
    }


def _scored(tokenizer: Tokenizer, token: TokenLogprobs) -> dict[str, Any]:
    best: Sequence[Any] = [(each, _text(tokenizer, each), finite(logprob)) for each, logprob in token.top]
    return {"logprob": finite(token.logprob), "alternatives": best}


def _text(tokenizer: Tokenizer, token: int) -> str:
    return tokenizer.token_bytes(token).decode("utf-8", "replace")


def _ms(seconds: float) -> float:
    return round(1e3 * seconds, 2)
