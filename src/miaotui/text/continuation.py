"""Token ids of a prompt and what follows it, for scoring the one after the other.

Owns where the boundary lies when tokens merge across it. Knows no model. Invariant: the tokens are those of the whole
text, so that a score is the one that the model would give the text as it stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from miaotui.errors import RequestError
from miaotui.text.tokenizers.tokenizer import Tokenizer

Text = str | Sequence[int]


def continued(tokenizer: Tokenizer, prompt: Text, continuation: Text, at_most: int) -> tuple[list[int], int]:
    """Return the token ids of ``prompt`` with ``continuation``, and how many of them are the prompt's.

    Two texts are cut as one; what they have in common with the prompt alone is the prompt's, so a token that spans the
    boundary belongs to the continuation. Token ids are used as they are. Raises `RequestError` unless both have a
    token, and `PromptTooLongError` for texts that cannot have ``at_most`` tokens.
    """
    alone = _begun(tokenizer, prompt, at_most) if isinstance(prompt, str) else list(prompt)
    if not isinstance(continuation, str):
        whole, start = [*alone, *continuation], len(alone)
    elif not isinstance(prompt, str):
        whole = [*alone, *tokenizer.encode(continuation, whole=False, at_most=at_most)]
        start = len(alone)
    else:
        whole = _begun(tokenizer, prompt + continuation, at_most)
        start = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(alone, whole, strict=False)))
    if not 0 < start < len(whole):
        raise RequestError(
            "a prompt and each continuation must have at least one token: the first token of a text has no score"
        )
    return whole, start


def _begun(tokenizer: Tokenizer, text: str, at_most: int) -> list[int]:
    """Return the ids of a text that goes on: with the tokens that belong in front, without those that end it."""
    ids = tokenizer.encode(text, at_most=at_most)
    suffix = list(tokenizer.roles.suffix)
    return ids[: -len(suffix)] if suffix and ids[-len(suffix) :] == suffix else ids
