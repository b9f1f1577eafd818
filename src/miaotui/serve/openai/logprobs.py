"""Log-probabilities in the shapes that clients of OpenAI and of vLLM know.

Owns how tokens are written as text: bytes that are no whole character become U+FFFD, and the chat
shape gives the bytes as well. Invariants: every number is finite, since JSON has no infinity; a token that is
the best one has equal floats as itself and among the best.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from miaotui.text.tokenizers.tokenizer import Tokenizer
from miaotui.types import PromptLogprobs, TokenLogprobs

LEAST = -9999.0  # stands for a probability of zero


def chat_logprobs(tokenizer: Tokenizer, tokens: Sequence[TokenLogprobs]) -> dict[str, Any]:
    """Return the ``logprobs`` of a chat choice."""
    content = [
        {
            **_entry(tokenizer, token.token_id, token.logprob),
            "top_logprobs": [_entry(tokenizer, *best) for best in token.top],
        }
        for token in tokens
    ]
    return {"content": content, "refusal": None}


class TextLogprobs:
    """Writes the ``logprobs`` of one text choice piece by piece, each token with its offset in the choice's text.

    ``echo`` is the prompt as it stands in front of the answer; "" for a choice without it.
    """

    def __init__(self, tokenizer: Tokenizer, top: int, echo: str = "") -> None:
        self._tokenizer, self._top, self._echo = tokenizer, top, echo
        self._stream = tokenizer.stream()
        self._offset = len(echo)

    def prompt(self, tokens: Sequence[int], found: PromptLogprobs) -> dict[str, list[Any]]:
        """Return the shape for the prompt's tokens."""
        offsets = prompt_offsets(self._tokenizer, tokens, self._echo)
        return self._shape(tokens, found, offsets)

    def answer(self, found: Sequence[TokenLogprobs]) -> dict[str, list[Any]]:
        """Return the shape for the answer's next tokens."""
        offsets = []
        for token in found:
            offsets.append(self._offset + self._stream.broken_off(token.token_id))
            self._offset += len(self._stream.push(token.token_id))
        return self._shape([token.token_id for token in found], found, offsets)

    def _shape(
        self, tokens: Sequence[int], found: Sequence[TokenLogprobs | None], offsets: list[int]
    ) -> dict[str, list[Any]]:
        spell = self._tokenizer.token_bytes
        return {
            "tokens": [_text(spell(token)) for token in tokens],
            "token_logprobs": [None if each is None else finite(each.logprob) for each in found],
            "top_logprobs": [None if each is None else self._best(each) for each in found],
            "text_offset": offsets,
        }

    def _best(self, token: TokenLogprobs) -> dict[str, float]:
        """Return the best tokens by text, and the token itself. Of equal texts the likeliest token counts."""
        best: dict[str, float] = {}
        for token_id, logprob in (*token.top[: self._top], (token.token_id, token.logprob)):
            best.setdefault(_text(self._tokenizer.token_bytes(token_id)), finite(logprob))
        return best


def joined(first: dict[str, list[Any]], then: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Return one text choice's ``logprobs`` from those of two pieces that follow each other."""
    return {name: values + then[name] for name, values in first.items()}


def prompt_offsets(tokenizer: Tokenizer, tokens: Sequence[int], text: str) -> list[int]:
    """Return where in ``text``, in characters, each of its tokens begins.

    A token within a character has the character's place; tokens that the tokenizer put in front have place 0.
    """
    stream, offsets, end = tokenizer.stream(skip_special=False), [], 0
    for token in tokens:
        offsets.append(end + stream.broken_off(token))
        end += len(stream.push(token))
    added = max(0, end + len(stream.finish()) - len(text))  # in front: a beginning token, or SentencePiece's space
    return [min(max(0, offset - added), len(text)) for offset in offsets]


def vllm_logprobs(tokenizer: Tokenizer, found: PromptLogprobs) -> list[dict[str, Any] | None]:
    """Return ``prompt_logprobs`` in vLLM's form: for each token a map from id to log-probability, rank and text."""
    return [None if each is None else _by_id(tokenizer, each) for each in found]


def _by_id(tokenizer: Tokenizer, token: TokenLogprobs) -> dict[str, Any]:
    entries = [(token.token_id, token.logprob, token.rank)]
    entries += [(best, logprob, rank) for rank, (best, logprob) in enumerate(token.top, 1) if best != token.token_id]
    return {
        str(token_id): {
            "logprob": finite(logprob),
            "rank": rank,
            "decoded_token": _text(tokenizer.token_bytes(token_id)),
        }
        for token_id, logprob, rank in entries
    }


def _entry(tokenizer: Tokenizer, token_id: int, logprob: float) -> dict[str, Any]:
    spelled = tokenizer.token_bytes(token_id)
    return {"token": _text(spelled), "logprob": finite(logprob), "bytes": list(spelled)}


def _text(spelled: bytes) -> str:
    return spelled.decode("utf-8", "replace")


def finite(logprob: float) -> float:
    """Return a log-probability as JSON can write it."""
    return logprob if logprob > LEAST else LEAST
