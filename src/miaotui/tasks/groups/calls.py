"""The calls `similar`, `duplicates` and `group`: texts in, typed results out, by an encoder that they open.

Owns the choice of encoder and the time that is reported. Knows no arithmetic. Invariant: an encoder that a caller
gives stays open.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace

from miaotui.tasks.calls import Model, encoder_for, opened_encoder
from miaotui.tasks.groups.likeness import (
    DUPLICATE_FROM,
    TOP,
    duplicate_groups,
    require_few,
    similar_texts,
    topic_groups,
)
from miaotui.tasks.groups.results import Grouping, SimilarTexts
from miaotui.tasks.vectors import embed_texts, listed


def similar(
    queries: str | Iterable[str],
    texts: Iterable[str],
    *,
    top: int = TOP,
    least: float = -1.0,
    model: Model | None = None,
    deadline_ms: float | None = None,
) -> list[SimilarTexts]:
    """Return for each query the ``top`` texts that are most like it, of cosine ``least`` or more.

    A query or a text that cannot be taken is left out, a query with an error. Raises a `MiaotuiError`.
    """
    began_s = time.perf_counter()
    asked, given = listed(queries, "queries"), listed(texts)
    require_few(len(given))
    with opened_encoder(model or encoder_for([*asked, *given])) as encoder:
        both = embed_texts(encoder, [*asked, *given], deadline_ms=deadline_ms)
        name = encoder.model.path.name
    found = similar_texts(
        both[: len(asked)].named("queries"), both[len(asked) :], given, top=top, least=least, model=name
    )
    took_ms = (time.perf_counter() - began_s) * 1e3
    return [replace(each, took_ms=took_ms) for each in found]


def duplicates(
    texts: Iterable[str], *, least: float = DUPLICATE_FROM, model: Model | None = None, deadline_ms: float | None = None
) -> Grouping:
    """Return groups of texts that say nearly the same: chains of pairs of cosine ``least`` or more.

    Texts that are like no other one have no group. Raises a `MiaotuiError`.
    """
    began_s = time.perf_counter()
    given = listed(texts)
    require_few(len(given))
    with opened_encoder(model or encoder_for(given)) as encoder:
        read = embed_texts(encoder, given, deadline_ms=deadline_ms)
        found = duplicate_groups(read, given, least=least, model=encoder.model.path.name)
    return replace(found, took_ms=(time.perf_counter() - began_s) * 1e3)


def group(
    texts: Iterable[str], groups: int | None = None, *, model: Model | None = None, deadline_ms: float | None = None
) -> Grouping:
    """Return texts in ``groups`` clusters with names; None: in a number that fits them. Raises a `MiaotuiError`."""
    began_s = time.perf_counter()
    given = listed(texts)
    require_few(len(given))
    with opened_encoder(model or encoder_for(given)) as encoder:
        read = embed_texts(encoder, given, deadline_ms=deadline_ms)
        found = topic_groups(read, given, groups=groups, model=encoder.model.path.name)
    return replace(found, took_ms=(time.perf_counter() - began_s) * 1e3)
