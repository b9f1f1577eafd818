"""Labels of texts by a frozen encoder: with examples, or by likeness to names and descriptions of labels.

Owns `Classifier`: an encoder, a head over its embeddings, and their results. Knows no files of data and no HTTP.
Invariants: a text's result depends on that text and the head alone; a wrong row fails alone.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from miaotui.encoder import Encoder
from miaotui.engine.encoding.loaded import LoadedEncoder
from miaotui.errors import FieldError, RequestError
from miaotui.tasks.calibration import Doubles
from miaotui.tasks.heads.head import ClassifierHead, check_labels, fit_head, head_of_names
from miaotui.tasks.heads.head_file import load_head, save_head
from miaotui.tasks.result import LabelledText, RowError, TaskResult
from miaotui.tasks.vectors import PROMPT, Floats, TextVectors, embed_texts, listed
from miaotui.tasks.word_effects import with_words

Result = TypeVar("Result", bound=TaskResult)
Self = TypeVar("Self", bound="Classifier")
Names = Sequence[str] | Mapping[str, str | Sequence[str] | None]
"""Labels: a list of names, or each name with a description, or with several."""


class Classifier:
    """An encoder and a head over its embeddings, for any number of threads at once.

    ``errors`` are the rows of examples that were left out. The encoder stays the caller's to close.
    """

    def __init__(self, encoder: Encoder, head: ClassifierHead, errors: Sequence[RowError] = ()) -> None:
        require_fit(head, encoder.model)
        self.encoder, self.head, self.errors = encoder, head, tuple(errors)
        self._learning = threading.Lock()

    @classmethod
    def fit(
        cls: type[Self],
        encoder: Encoder,
        texts: Iterable[str],
        labels: Iterable[str],
        *,
        descriptions: Mapping[str, str | Sequence[str]] | None = None,
        prompt: str | None = PROMPT,
    ) -> Self:
        """Fit a head to examples. Rows without a text or a label, and second labels of a text, are left out.

        ``descriptions`` of labels, one or several of each, count beside examples in place of their names. Raises
        `RequestError` where fewer than two labels are left.
        """
        given, wanted = listed(texts), listed(labels, "labels")
        rows, errors = sound_rows(given, wanted)
        read = embed_texts(encoder, [given[row] for row in rows], prompt=prompt)
        names: dict[str, str | Sequence[str] | None] = dict.fromkeys(wanted[row] for row in rows)
        names |= {label: about for label, about in (descriptions or {}).items() if label in names}
        phrases = phrases_of(names)
        named = embed_texts(encoder, [phrase for each in phrases.values() for phrase in each], prompt=prompt)
        errors += [RowError(rows[place], str(read.errors[place])) for place in range(len(read)) if read.errors[place]]
        chosen = [wanted[rows[place]] for place in read.sound]
        vectors = vectors_by_label(phrases, named)
        name = encoder.model.path.name
        head = fit_head(
            read.values[read.sound],
            chosen,
            encoder=name,
            prompt=prompt,
            names=vectors,
            are_descriptions=descriptions is not None,
        )
        return cls(encoder, head, sorted(errors, key=lambda error: error.index))

    @classmethod
    def from_names(
        cls: type[Self], encoder: Encoder, labels: Names, *, template: str = "{}", prompt: str | None = PROMPT
    ) -> Self:
        """Make a classifier without examples: texts are compared with names and descriptions of labels.

        ``template`` holds each in a sentence, at ``{}``. Raises `RequestError` for labels that are missing or twice.
        """
        phrases = phrases_of(labels, template)
        flat = [phrase for each in phrases.values() for phrase in each]
        read = embed_texts(encoder, flat, prompt=prompt)
        return cls(encoder, names_head(phrases, read, encoder.model.path.name, prompt))

    @classmethod
    def load(cls: type[Self], path: str | os.PathLike[str], encoder: Encoder) -> Self:
        """Load a head that was saved, for the encoder that it was made with. Raises a `MiaotuiError`."""
        return cls(encoder, load_head(path))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the head, with the examples that it keeps, to one file. Raises `CacheError`."""
        save_head(self.head, path)

    def classify(
        self,
        texts: str | Iterable[str],
        *,
        threshold: float = 0.0,
        words: int = 0,
        first: int = 0,
        deadline_ms: float | None = None,
    ) -> list[LabelledText]:
        """Return the label of each text, None below ``threshold``.

        A text that cannot be taken has an error, and the others are answered. ``words`` is how many words that carry
        the likeliest label are given with each; the effects of a text's first 64 words are measured, which takes as
        long as so many texts. ``first`` is the index of the first text. Raises `DeadlineUnattainableError`.
        """
        began_s = time.perf_counter()
        head, given = self.head, listed(texts)
        read = embed_texts(self.encoder, given, prompt=head.prompt, first=first, deadline_ms=deadline_ms)
        found = labelled(head, read, LabelledText, threshold=threshold, began_s=began_s, first=first)
        return with_words(self.encoder, head, given, found, words) if words else found

    def calibrate(self, texts: Iterable[str], labels: Iterable[str]) -> None:
        """Fit the temperature of the probabilities on held-out examples. Raises `RequestError`."""
        read, wanted = self._examples(texts, labels)
        with self._learning:
            self.head = self.head.calibrate(read.values[read.sound], wanted)

    def learn(self, texts: str | Iterable[str], labels: str | Iterable[str]) -> None:
        """Learn one more example, or several, at once; a label may be new. Raises `RequestError`."""
        read, wanted = self._examples(texts, [labels] if isinstance(labels, str) else labels)
        with self._learning:
            self.head = self.head.learn(read.values[read.sound], wanted)

    def _examples(self, texts: str | Iterable[str], labels: Iterable[str]) -> tuple[TextVectors, list[str]]:
        """Return the vectors of examples, all of which must be sound. Raises `RequestError`."""
        given, wanted = listed(texts), listed(labels, "labels")
        if len(given) != len(wanted):
            raise FieldError("labels", f"has {len(wanted)} labels for {len(given)} texts: give one for each")
        read = embed_texts(self.encoder, given, prompt=self.head.prompt)
        if len(read.sound) < len(read):
            raise RequestError(next(error for error in read.errors if error))
        return read, wanted


def labelled(
    head: ClassifierHead,
    read: TextVectors,
    kind: type[Result],
    *,
    threshold: float = 0.0,
    began_s: float | None = None,
    first: int = 0,
) -> list[Result]:
    """Return the results of texts whose vectors are read, in their order."""
    rows = head.probabilities(read.values)
    took_ms = 0.0 if began_s is None else (time.perf_counter() - began_s) * 1e3
    shared: dict[str, Any] = {"model": head.encoder, "took_ms": took_ms}
    return [
        kind(index=first + place, error=error, **shared)
        if error is not None
        else replace(
            result_of(head, rows[place], kind, threshold),
            index=first + place,
            dropped_tokens=read.dropped[place],
            **shared,
        )
        for place, error in enumerate(read.errors)
    ]


def result_of(head: ClassifierHead, row: Doubles, kind: type[Result], threshold: float) -> Result:
    """Return the result for one text's probabilities ``[labels]``."""
    place = int(row.argmax())
    best, probability = head.labels[place], float(row[place])
    return kind(
        index=0,
        label=best if probability >= threshold else None,
        best=best,
        probability=probability,
        scores=dict(zip(head.labels, row.tolist(), strict=True)),
        source=head.source,
        calibrated=head.calibrated,
    )


def phrases_of(labels: Names, template: str = "{}") -> dict[str, list[str]]:
    """Return the phrases that stand for each label: its name in words, and its descriptions. Raises `FieldError`."""
    if isinstance(labels, str) or not isinstance(labels, (Sequence, Mapping)):
        raise FieldError("labels", f"give a list of names, or names with descriptions, not {type(labels).__name__}")
    if "{}" not in template:
        raise FieldError("template", f"must have a place {{}} for a label, not {template[:64]!r}")
    names = list(labels)
    check_labels(names)
    found: dict[str, list[str]] = {}
    for name in names:
        given = labels[name] if isinstance(labels, Mapping) else None
        more = [given] if isinstance(given, str) else list(given or ())
        if not all(isinstance(each, str) and each.strip() for each in more):
            raise FieldError(f"labels[{name!r}]", "a description must be a text that is not empty")
        found[name] = [template.replace("{}", each) for each in (more or [words_of(name)])]
    return found


def words_of(label: str) -> str:
    """Return a label's name in words."""
    return " ".join(label.replace("_", " ").split()) or label


def names_of(labels: Iterable[str]) -> dict[str, str]:
    """Return each label once, with its name in words."""
    return {label: words_of(label) for label in labels}


def names_head(
    phrases: Mapping[str, Sequence[str]], read: TextVectors, encoder: str, prompt: str | None
) -> ClassifierHead:
    """Return the head of labels whose phrases, all in a row, have the vectors ``read``. Raises `RequestError`."""
    return head_of_names(vectors_by_label(phrases, read), encoder=encoder, prompt=prompt)


def vectors_by_label(phrases: Mapping[str, Sequence[str]], read: TextVectors) -> dict[str, Floats]:
    """Return the vectors ``[m, d]`` of each label's phrases, which are all in a row. Raises `RequestError`."""
    if len(read.sound) < len(read):
        raise RequestError(next(error for error in read.errors if error))
    vectors, place = {}, 0
    for name, each in phrases.items():
        vectors[name] = read.values[place : place + len(each)]
        place += len(each)
    return vectors


def sound_rows(texts: Sequence[Any], labels: Sequence[Any]) -> tuple[list[int], list[RowError]]:
    """Return the places of rows that can be learned from, and why each other one cannot. Raises `FieldError`."""
    if len(texts) != len(labels):
        raise FieldError("labels", f"has {len(labels)} labels for {len(texts)} texts: give one for each")
    rows: list[int] = []
    errors: list[RowError] = []
    first: dict[str, int] = {}
    for row, (text, label) in enumerate(zip(texts, labels, strict=True)):
        reason = None
        if not isinstance(text, str) or not text.strip():
            reason = f"texts[{row}]: must be a text that is not empty"
        elif not isinstance(label, str) or not label.strip():
            reason = f"labels[{row}]: must be a label that is not empty"
        elif text in first and labels[first[text]] != label:
            reason = f"labels[{row}]: the text has {label!r} here and {labels[first[text]]!r} in row {first[text]}"
        if reason is None:
            first.setdefault(text, row)
            rows.append(row)
        else:
            errors.append(RowError(row, reason))
    return rows, errors


def require_fit(head: ClassifierHead, model: LoadedEncoder) -> None:
    """Raise `RequestError` for a head of another encoder."""
    name = model.path.name
    if head.width != model.width or head.encoder != name:
        raise RequestError(
            f"the head was made with {head.encoder} ({head.width} dimensions), not with {name} "
            f"({model.width} dimensions): load the encoder that it names"
        )
