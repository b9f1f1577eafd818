"""Whether two tokenizers give every text the same tokens.

Owns the comparison: spelling of each token, special tokens, and the cuts of a few texts that differ where rules do.
Knows no files. Invariant: tokenizers that are found equal have one meaning for each token.
"""

from __future__ import annotations

from miaotui.text.tokenizers.tokenizer import Tokenizer

PROBES = (
    'The quick brown fox, 1234567890 jumps; over\tthe "lazy" dog\'s\n\n  back?!',
    "秒推让任何模型在一秒之内回答。今天是2026年，气温-3.5°C。",
    "def f(x):\n    return {k: v**2 for k, v in x.items()}  # ünïcödé ✓ 👩‍🔬",
)


def same_tokens(one: Tokenizer, other: Tokenizer) -> bool:
    """Return whether both have the same tokens at the same ids, and cut texts alike; ids without a text may differ."""
    if one is other:
        return True
    size = min(one.vocab_size, other.vocab_size)
    longer = one if one.vocab_size > other.vocab_size else other
    return (
        one.special_ids == other.special_ids
        and all(one.token_bytes(i) == other.token_bytes(i) for i in range(size))
        and not any(longer.token_bytes(i) for i in range(size, longer.vocab_size))
        and all(one.encode(probe) == other.encode(probe) for probe in PROBES)
    )
