"""Settings of the search from ``generation_config.json``, or from ``config.json`` as older folders have them.

Knows transformers' keys and defaults; the family's default token ids fill what both files leave unsaid. Invariant: the
ids of the result are of the model's vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from miaotui.errors import FieldError, ModelFormatError
from miaotui.model.config import MAX_VOCAB
from miaotui.model.reading.checks import require
from miaotui.model.reading.fields import Fields
from miaotui.model.seq2seq.config import Seq2SeqConfig
from miaotui.model.seq2seq.generation import MAX_BANNED, MAX_BEAMS, MAX_NGRAM, GenerationSettings
from miaotui.model.seq2seq.reading.families import family_of

MAX_LENGTH = 512  # where the files set no limit


def generation_from_hf(
    values: Mapping[str, Any], generation: Mapping[str, Any] | None, config: Seq2SeqConfig
) -> GenerationSettings:
    """Return the settings of a model; ``generation`` is None where the folder has no such file.

    Raises `ModelFormatError` for values that no search can follow.
    """
    defaults = dict(family_of(Fields(values, "config.json").text("model_type")).tokens)
    if generation is not None:
        defaults.pop("forced_eos_token_id", None)
    ids = {key: values[key] for key in values if key.endswith("_token_id") and values[key] is not None}
    rest = ids if generation is not None else values
    given = {key: value for key, value in (generation or {}).items() if value is not None}
    fields = Fields({**defaults, **rest, **given}, "generation_config.json")
    start = next(
        (fields.size(key, MAX_VOCAB) for key in ("decoder_start_token_id", "bos_token_id") if fields.has(key)), None
    )
    if start is None:
        raise ModelFormatError("the model's files name no decoder_start_token_id: get generation_config.json with them")
    most = config.decoder.max_tokens
    try:
        settings = GenerationSettings(
            start_token=start,
            eos_ids=_ids(fields, "eos_token_id"),
            max_length=min(_max_length(fields), most),
            num_beams=fields.count("num_beams", MAX_BEAMS, 1),
            length_penalty=fields.number("length_penalty", 1.0),
            early_stopping=_early_stopping(fields),
            no_repeat_ngram_size=fields.size("no_repeat_ngram_size", MAX_NGRAM),
            min_length=min(fields.size("min_length", 1 << 20), most),
            forced_bos_id=fields.size("forced_bos_token_id", MAX_VOCAB) if fields.has("forced_bos_token_id") else None,
            forced_eos_ids=_ids(fields, "forced_eos_token_id"),
            bad_words=_words(fields),
            suppressed_ids=_ids(fields, "suppress_tokens"),
            begin_suppressed_ids=_ids(fields, "begin_suppress_tokens"),
        )
        settings.check_vocabulary(config.vocab_size)
    except FieldError as error:
        raise ModelFormatError(f"the model's settings of its search are wrong: {error}; get the model again") from error
    return settings


def _max_length(fields: Fields) -> int:
    if fields.has("max_new_tokens"):
        return 1 + fields.count("max_new_tokens", 1 << 20)
    return fields.count("max_length", 1 << 20, MAX_LENGTH)


def _early_stopping(fields: Fields) -> Any:
    value = fields.get("early_stopping")
    return False if value is None else value


def _ids(fields: Fields, key: str) -> tuple[int, ...]:
    """Return one id or a list of them as a tuple."""
    value = fields.get(key)
    found = [] if value is None else fields.sequence(key) if isinstance(value, (list, tuple)) else [value]
    whole = found is not None and all(type(each) is int and 0 <= each < MAX_VOCAB for each in found)
    require(whole and len(found or ()) <= MAX_BANNED, key, "a token id or a list of them", str(value)[:80])
    return tuple(each for each in found or () if isinstance(each, int))


def _words(fields: Fields) -> tuple[tuple[int, ...], ...]:
    words = fields.sequence("bad_words_ids") if fields.has("bad_words_ids") else []
    lists = words is not None and len(words) <= MAX_BANNED and all(isinstance(word, list) for word in words)
    require(lists, "bad_words_ids", "a list of lists of token ids", str(words)[:80])
    return tuple(_ids(Fields({"word": word}, f"{fields.where}, bad_words_ids"), "word") for word in words or ())
