"""From texts to embeddings, with one error for each text that cannot be taken.

Owns which texts are computed and where their embeddings belong. Knows neither labels nor heads. Invariants: a text
that cannot be taken fails alone; what is cut off a text is counted.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miaotui.encoder import Encoder, deadline_of
from miaotui.encoders.inputs import EncoderInputs, ReadOptions, read_texts
from miaotui.encoders.prompts import Prefix, prefix_of
from miaotui.encoders.tasks import EncodeTask
from miaotui.engine.encoding.job import Reduction
from miaotui.engine.encoding.loaded import LoadedEncoder
from miaotui.engine.encoding.reading import StateReading
from miaotui.errors import FieldError, RequestError
from miaotui.tasks.checks import require_text
from miaotui.text.encoders.layout import EncodedText

Floats = NDArray[np.float32]
PROMPT: str | None = None  # of no search: the model's own default, and E5's "query"


@dataclass(frozen=True)
class TextVectors:
    """Unit vectors, float32 ``[n, d]``, of ``n`` texts; zeros where ``errors`` has a reason."""

    values: Floats
    errors: tuple[str | None, ...]
    dropped: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.errors)

    @property
    def sound(self) -> list[int]:
        """Return the places of texts that have a vector."""
        return [place for place, error in enumerate(self.errors) if error is None]

    def __getitem__(self, part: slice) -> TextVectors:
        """Return the vectors of some texts."""
        return TextVectors(self.values[part], self.errors[part], self.dropped[part])

    def joined(self, *parts: slice) -> TextVectors:
        """Return the vectors of several runs of texts, one after the other."""
        each = [self[part] for part in parts]
        values = np.concatenate([one.values for one in each])
        errors, dropped = (sum((getattr(one, name) for one in each), ()) for name in ("errors", "dropped"))
        return TextVectors(values, errors, dropped)

    def named(self, field: str) -> TextVectors:
        """Return the vectors with errors that name another field than ``texts``."""
        errors = (error if error is None else field + error.removeprefix("texts") for error in self.errors)
        return TextVectors(self.values, tuple(errors), self.dropped)


def listed(texts: str | Iterable[str], field: str = "texts") -> list[str]:
    """Return one text or several as a list; wrong ones are refused one by one later. Raises `FieldError`."""
    if isinstance(texts, str):
        return [texts]
    if isinstance(texts, (bytes, dict)) or not isinstance(texts, Iterable):
        raise FieldError(field, f"give a text or several texts, not {type(texts).__name__}")
    return list(texts)


def vector_task(
    model: LoadedEncoder, texts: Sequence[Any], *, prompt: str | None = PROMPT, first: int = 0
) -> EncodeTask[TextVectors]:
    """Make unit vectors of texts; one that is empty or no text fails alone, one that is too long is cut.

    Raises `RequestError` for a model that gives no embeddings.
    """
    model.require("embed")
    prefix = prefix_of(model, prompt)
    options = ReadOptions(truncate=True)
    read: list[EncodedText | str] = []
    for index, text in enumerate(texts, first):
        try:
            read.append(_read(model, text, prefix, replace(options, first=index)))
        except RequestError as error:
            read.append(str(error))
    inputs = EncoderInputs([each for each in read if not isinstance(each, str)])

    reading = StateReading("embedding", normalize=True, prompt_rows=[each.prompt_rows for each in inputs.encoded])

    def finish(found: list[Any]) -> TextVectors:
        values = np.zeros((len(read), model.width), np.float32)
        places = [place for place, each in enumerate(read) if not isinstance(each, str)]
        for place, vector in zip(places, found, strict=True):
            values[place] = vector
        errors = tuple(each if isinstance(each, str) else None for each in read)
        return TextVectors(values, errors, tuple(0 if isinstance(each, str) else each.dropped for each in read))

    return EncodeTask(inputs.rows, Reduction.of(model, "embed", reading), finish, inputs.dropped)


def embed_texts(
    encoder: Encoder,
    texts: Sequence[Any],
    *,
    prompt: str | None = PROMPT,
    first: int = 0,
    deadline_ms: float | None = None,
) -> TextVectors:
    """Compute the unit vectors of texts, see `vector_task`. Raises `RefusedError` for a deadline that cannot be met."""
    began_s = time.perf_counter()
    task = vector_task(encoder.model, texts, prompt=prompt, first=first)
    if not task.rows:
        return task.finish([])
    job = encoder.submit(task, deadline_of(deadline_ms), began_s)
    try:
        return task.finish(job.future.result())
    finally:
        job.cancel()


def _read(model: LoadedEncoder, text: Any, prefix: Prefix, options: ReadOptions) -> EncodedText:
    require_text(text, options.first, field=options.field)
    return read_texts(model, [text], options, prefix=prefix).encoded[0]
