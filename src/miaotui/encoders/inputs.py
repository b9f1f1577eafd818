"""From texts that a caller gives to the rows of an encoder, for `Encoder`, `AsyncEncoder` and the server alike.

Owns limits, truncation that is counted, and the names of inputs in errors. Knows no thread and no head. Invariant: an
input is taken whole, cut with the number of tokens reported, or refused by its place; never cut in silence.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from miaotui.backends.encoder_backend import TextRows
from miaotui.encoders.prompts import NO_PREFIX, Prefix
from miaotui.engine.encoding.loaded import LoadedEncoder
from miaotui.errors import FieldError, InputTooLongError, PromptTooLongError, RequestError
from miaotui.text.encoders.layout import EncodedText

Text = str | Sequence[int]  # token ids are taken as they are, special tokens included


@dataclass(frozen=True)
class EncoderInputs:
    """Texts as rows, with what belongs to each for the results."""

    encoded: Sequence[EncodedText]

    @property
    def rows(self) -> list[TextRows]:
        """Return the rows for a job."""
        return [TextRows(each.tokens, each.types if any(each.types) else ()) for each in self.encoded]

    @property
    def dropped(self) -> list[int]:
        """Return how many tokens were cut off each text."""
        return [each.dropped for each in self.encoded]

    @property
    def n_tokens(self) -> int:
        """Return the tokens of all texts, special tokens included."""
        return sum(len(each.tokens) for each in self.encoded)


@dataclass(frozen=True)
class ReadOptions:
    """Options of reading texts: ``field`` and ``first`` name them in errors, ``max_tokens`` lowers the limit."""

    field: str = "texts"
    first: int = 0
    truncate: bool = False
    max_tokens: int | None = None

    def limit(self, model: LoadedEncoder) -> int:
        """Return the tokens that a text may have. Raises `FieldError`."""
        if self.max_tokens is not None and self.max_tokens < 1:
            raise FieldError("max_tokens", f"must be at least 1, not {self.max_tokens!r}")
        return min(self.max_tokens or model.max_tokens, model.max_tokens)


PLAIN = ReadOptions()


def read_texts(
    model: LoadedEncoder,
    texts: Iterable[Text],
    options: ReadOptions = PLAIN,
    *,
    prefix: Prefix = NO_PREFIX,
    special: bool = False,
) -> EncoderInputs:
    """Read single texts or token ids; ``special``: control tokens written in them are recognised.

    Raises `FieldError`, which names the input; `InputTooLongError`.
    """
    limit = options.limit(model)
    prompt_rows = _prompt_rows(model, prefix)
    encoded: list[EncodedText] = []
    for index, text in enumerate(texts, options.first):
        name = f"{options.field}[{index}]"
        try:
            read = _read(model, text, prefix, limit, options.truncate, special)
            is_prompted = prompt_rows and isinstance(text, str) and prefix.applies_to(text)
            encoded.append(read._replace(prompt_rows=prompt_rows) if is_prompted else read)
        except PromptTooLongError as error:
            raise InputTooLongError(name, str(error)) from None
        except RequestError as error:
            raise FieldError(name, str(error)) from None
    return EncoderInputs(encoded)


def read_pair(
    model: LoadedEncoder, first: str, second: str, options: ReadOptions = PLAIN, index: int = 0
) -> EncodedText:
    """Read two texts as a cross-encoder does. Raises `FieldError`, which names the second; `InputTooLongError`."""
    name = f"{options.field}[{options.first + index}]"
    if not isinstance(first, str) or not isinstance(second, str):
        raise FieldError(name, "must be text")
    try:
        if model.rerank_prompt is not None:
            return _prompted(model, model.rerank_prompt.body(first, second), options)
        return model.tokenizer.encode_pair(first, second, max_tokens=options.limit(model), truncate=options.truncate)
    except PromptTooLongError as error:
        raise InputTooLongError(name, str(error)) from None
    except FieldError:
        raise
    except RequestError as error:
        raise FieldError(name, str(error)) from None


def _prompted(model: LoadedEncoder, body: str, options: ReadOptions) -> EncodedText:
    """Return the rows of a reranker's prompt; only its own beginning and end hold control tokens."""
    prompt, limit = model.rerank_prompt, options.limit(model)
    assert prompt is not None
    before, text, after = (
        _bare(model.tokenizer.encode_text(part, special=special))
        for part, special in ((prompt.prefix, True), (body, False), (prompt.suffix, True))
    )
    room = limit - len(before) - len(after)
    if len(text) > room and not (options.truncate and room > 0):
        n = len(before) + len(text) + len(after)
        raise PromptTooLongError(
            f"the text has {n:,} tokens, and at most {limit:,} fit: shorten it, or allow truncation"
        )
    kept = text[:room]
    tokens = [*before, *kept, *after]
    special = [True] * len(before) + [False] * len(kept) + [True] * len(after)
    return EncodedText(tokens, [0] * len(tokens), special, None, len(text) - len(kept))


def _bare(encoded: EncodedText) -> list[int]:
    """Return a text's tokens without those that the tokenizer puts around it."""
    return [token for token, special in zip(encoded.tokens, encoded.special, strict=True) if not special]


def text_list(texts: object, field: str = "texts") -> list[Text]:
    """Return one text, token ids, or several of these as a list. Raises `FieldError` for anything else."""
    if isinstance(texts, str):
        return [texts]
    if isinstance(texts, (bytes, Mapping)) or not isinstance(texts, Iterable):
        raise FieldError(field, f"give a text, token ids, or several of these, not {type(texts).__name__}")
    given = list(texts)
    if given and all(isinstance(each, (int, np.integer)) for each in given):
        return [[operator.index(each) for each in given]]
    for index, each in enumerate(given):
        is_ids = isinstance(each, Sequence) and all(isinstance(token, (int, np.integer)) for token in each)
        if not isinstance(each, str) and not is_ids:
            raise FieldError(f"{field}[{index}]", f"must be a text or token ids, not {type(each).__name__}")
    return given


def _read(model: LoadedEncoder, text: Text, prefix: Prefix, limit: int, truncate: bool, special: bool) -> EncodedText:
    if not text:
        raise RequestError("must not be empty")
    if isinstance(text, str):
        return model.tokenizer.encode_text(prefix.put(text), max_tokens=limit, truncate=truncate, special=special)
    return _token_ids(model, text, limit, truncate)


def _prompt_rows(model: LoadedEncoder, prefix: Prefix) -> int:
    """Return how many first rows of a prompted text the model's pooling leaves out: up to the prompt's last token."""
    if model.pooler is None or model.pooler.pooling.include_prompt or not prefix.text:
        return 0
    special = model.tokenizer.encode_text(prefix.text).special
    return len(special) - special[-1]


def _token_ids(model: LoadedEncoder, tokens: Sequence[int], limit: int, truncate: bool) -> EncodedText:
    ids = list(tokens)
    size = model.vocab_size
    if min(ids) < 0 or max(ids) >= size:
        raise RequestError(f"token ids of this model are in [0, {size:,}): send text, or ids of its own tokenizer")
    if len(ids) > limit and not truncate:
        raise PromptTooLongError(
            f"the text has {len(ids):,} tokens, and at most {limit:,} fit: shorten it, or allow truncation"
        )
    kept = ids[:limit]
    hidden = model.tokenizer.vocabulary.special_ids
    return EncodedText(kept, [0] * len(kept), [token in hidden for token in kept], None, len(ids) - len(kept))
