"""Frames: texts with gaps that a model fills, while every fixed part stays byte for byte.

Owns the order of gaps and what belongs to a fill. A decoder that was trained to fill in takes one gap after the other,
with what is before it and the next fixed part behind it; an encoder-decoder that was trained on masked spans (T5)
and a masked model fill all of them together. Invariant: the result is the fixed parts with the fills between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from miaotui.dmlm.decoding.decode import DecodeOptions
from miaotui.dmlm.masked_model import MaskedLM
from miaotui.dmlm.masks.sentinels import require_sentinels, span_fills
from miaotui.errors import FieldError, RequestError
from miaotui.llm import LLM
from miaotui.seq2seq.model import Seq2Seq

MARK = "[MASK]"
GAP_TOKENS = 32
MAX_GAPS = 64
SURE = 4  # characters of the next part that end a fill when the model writes them
STOP = 24  # of these at most


@dataclass(frozen=True)
class FilledFrame:
    """A filled text, and what was put into each gap."""

    text: str
    fills: tuple[str, ...]


def fill_frame(
    frame: str | Sequence[str],
    model: LLM | MaskedLM | Seq2Seq,
    *,
    mark: str = MARK,
    max_tokens: int | Sequence[int] = GAP_TOKENS,
    **parameters: Any,
) -> FilledFrame:
    """Fill the gaps of a frame: a text with ``mark`` for each, or its fixed parts.

    A gap gets at most ``max_tokens``, one number or one for each; a masked model fills exactly so many. ``parameters``
    are those of `LLM.infill`, of `DecodeOptions`, or of a search of `Seq2Seq`. Raises `RequestError` for a frame
    without a gap or with more than 64 (an encoder-decoder: than it has sentinels), `PromptTooLongError` where it does
    not fit the context, and what the model raises.
    """
    parts = _parts(frame, mark)
    counts = list(max_tokens) if isinstance(max_tokens, Sequence) else [max_tokens] * (len(parts) - 1)
    if len(counts) != len(parts) - 1 or not all(isinstance(each, int) and each >= 1 for each in counts):
        raise FieldError("max_tokens", f"must be 1 or more, one number or one for each of {len(parts) - 1} gaps")
    if isinstance(model, MaskedLM):
        fills = _restored(parts, model, counts, DecodeOptions(**parameters))
    elif isinstance(model, Seq2Seq):
        fills = _written(parts, model, sum(counts), parameters)
    else:
        fills = _infilled(parts, model, counts, parameters)
    return FilledFrame("".join(each for pair in zip(parts, [*fills, ""], strict=True) for each in pair), tuple(fills))


def _parts(frame: str | Sequence[str], mark: str) -> list[str]:
    if isinstance(frame, str):
        if not mark:
            raise FieldError("mark", "must have a character")
        parts = frame.split(mark)
    else:
        parts = list(frame) if isinstance(frame, Sequence) else []
        if not isinstance(frame, Sequence) or not all(isinstance(part, str) for part in parts):
            raise FieldError("frame", "must be a text, or a list of its fixed parts, which are texts")
    if len(parts) < 2:
        raise RequestError(f"the frame has no gap: put {mark} where text is to be filled in")
    if len(parts) > MAX_GAPS + 1:
        raise RequestError(f"the frame has {len(parts) - 1:,} gaps, and at most {MAX_GAPS} are filled at once: cut it")
    return parts


def _infilled(parts: Sequence[str], llm: LLM, counts: Sequence[int], parameters: dict[str, Any]) -> list[str]:
    fills: list[str] = []
    before = parts[0]
    stops = parameters.pop("stop", None) or []
    for after, count in zip(parts[1:], counts, strict=True):
        ends = [stops] if isinstance(stops, str) else list(stops)
        if len(after.strip()) >= SURE:
            ends.append(after[:STOP])
        completion = llm.infill(before, after, max_tokens=count, stop=ends, **parameters)
        fills.append(completion.text)
        before += completion.text + after
    return fills


def _written(parts: Sequence[str], model: Seq2Seq, count: int, parameters: dict[str, Any]) -> list[str]:
    loaded, tokenizer = model.model, model.model.tokenizer
    require_sentinels(len(parts) - 1, tokenizer.sentinels)
    most = count + 2 * len(parts)  # a sentinel for each gap, the first token and the end
    settings = model.settings({"max_length": most, **parameters})
    (found,) = model.loop.run([(tokenizer.source_of_parts(parts), settings)], None)
    _, written, _ = loaded.text(found.tokens, settings)
    fills = span_fills(written, tokenizer.sentinels, settings.eos_ids)
    texts = [tokenizer.join(each) for each in fills[: len(parts) - 1]]
    return texts + [""] * (len(parts) - 1 - len(texts))


def _restored(parts: Sequence[str], model: MaskedLM, counts: Sequence[int], options: DecodeOptions) -> list[str]:
    tokenizer, mask = model.tokenizer, model.masked.mask_id
    tokens = tokenizer.encode(parts[0]) if parts[0] else list(tokenizer.roles.prefix)
    places: list[tuple[int, int]] = []
    for after, count in zip(parts[1:], counts, strict=True):
        places.append((len(tokens), len(tokens) + count))
        tokens += [mask] * count
        tokens += tokenizer.encode(after, special=False) if after else []
    found = model.restore(tokens, replace(options, max_tokens=None))
    texts = []
    for start, end in places:
        stream = tokenizer.stream(start=start == 0)
        kept = [token for token in found[start:end] if token not in tokenizer.eos_ids]
        texts.append(stream.push_all(kept) + stream.finish(cut=True))
    return texts
