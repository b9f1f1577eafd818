"""Recommendation of items: learned from a log of events and from the items' texts.

Owns `Recommender`: fitting, questions, and events that are added. Knows an encoder by its public calls, and no file.
Invariants: events that are added count at once, in histories and in popularity, and the parts that need a fit stay as
they are until `refitted`; the order of users and items in a log changes no score.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miaotui.encoder import Encoder
from miaotui.errors import FieldError, RequestError
from miaotui.tasks.recommend import fusion
from miaotui.tasks.recommend.collaborative import (
    EaseModel,
    Floats,
    ItemNeighbours,
    matrix_of,
    neighbours_of,
    spectrum_of,
)
from miaotui.tasks.recommend.log import EventLog, Row, checked_name, merged, read_events
from miaotui.tasks.recommend.parts import PARTS, History, ItemVectors, Parts, popularity
from miaotui.tasks.recommend.ranking import ItemRanking, RankOptions, rank
from miaotui.tasks.recommend.reranking import DEPTH, CandidateScorer, reranked
from miaotui.tasks.recommend.result import Basis, Recommendation, Recommendations
from miaotui.tasks.result import RowError
from miaotui.tasks.vectors import embed_texts

BECAUSE = 3  # items of a history that a recommendation names
MAX_HISTORY = 10_000  # items; the latest are used
MAX_ITEM_TEXT = 4_096  # characters that are kept of an item's text
_NO_HISTORY = History(np.empty(0, np.int32), np.empty(0, np.float32))


@dataclass(frozen=True)
class Fitted:
    """Everything that a recommender has learned. ``texts`` stand by the number of the item, "" where there is none.

    ``learned``: the weights come from held-out events, not from `DEFAULT_WEIGHTS`.
    """

    log: EventLog
    parts: Parts
    weights: tuple[float, ...]
    penalty: float
    learned: bool
    texts: tuple[str, ...]
    encoder: str = ""


@dataclass
class Recommender:
    """Recommends items to users, for histories and for intents. Safe to use from several threads.

    ``encoder`` reads intents and the texts of new items; it has to be the one that the items' texts were read with.
    ``errors`` are the rows that were left out of the last log or of the last added events.
    """

    fitted: Fitted
    encoder: Encoder | None = None
    errors: tuple[RowError, ...] = ()
    _histories: list[History] = field(default_factory=list, repr=False)
    _users: dict[str, int] = field(default_factory=dict, repr=False)
    _items: dict[str, int] = field(default_factory=dict, repr=False)
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    def __post_init__(self) -> None:
        self._number(self.fitted.log)

    @classmethod
    def fit(
        cls,
        events: Iterable[Row],
        texts: Mapping[Any, str] | None = None,
        *,
        encoder: Encoder | None = None,
        weights: Sequence[float] | None = None,
    ) -> Recommender:
        """Fit all parts and their weights to rows of user, item, time in seconds and weight.

        ``texts`` has the text of each item by its name; with an ``encoder`` they are read by their meaning.
        ``weights``, one for each of `PARTS`, are learned unless they are given. Raises `RequestError` for a log without
        a sound row.
        """
        names = [] if texts is None else [checked_name("item", each) for each in texts]
        log = read_events(events, items=names)
        if not len(log):
            first = f": row {log.errors[0].index}: {log.errors[0].reason}" if log.errors else ""
            raise RequestError(f"the log has no event that can be used{first}")
        known = dict(zip(names, (str(each)[:MAX_ITEM_TEXT] for each in (texts or {}).values()), strict=True))
        named = tuple(known.get(item, "") for item in log.items)
        vectors = None if encoder is None or not any(named) else read_texts(encoder, named)
        fitted = fit_parts(log, named, vectors, weights)
        fitted = fitted if encoder is None else replace(fitted, encoder=encoder.model.path.name)
        return cls(fitted, encoder, log.errors)

    def refitted(self) -> Recommender:
        """Return a recommender with all parts fitted to the events of now; texts are not read again."""
        now = self.fitted
        fitted = replace(fit_parts(now.log, now.texts, now.parts.vectors), encoder=now.encoder)
        return Recommender(fitted, self.encoder)

    def recommend(
        self,
        user: Any = None,
        *,
        history: Iterable[Any] | None = None,
        intent: str | Floats | None = None,
        scorer: CandidateScorer | None = None,
        **options: Any,
    ) -> Recommendations:
        """Return the best items for a user of the log, for a history of items, or for an intent in words.

        An item of ``history`` may be a pair with its weight. A user that the log lacks gets what is popular; an unknown
        item of a history is left out, with its reason. ``intent`` is a text, or its unit vector by the encoder of the
        items' texts, float32 ``[d]``. ``scorer``, such as a `ChatScorer`, puts the best candidates in order once more.
        ``options``: see `RankOptions`. Raises `FieldError`.
        """
        began_s = time.perf_counter()
        chosen = RankOptions(**options)
        with self._lock:
            fitted = self.fitted
            taken, errors = self._history(user, history)
            name = None if user is None else checked_name("user", user)
            aim = None if intent is None else self._aim(intent)
            ranked = rank(fitted.parts, fitted.weights, taken, aim, deeper(chosen, scorer))
            if scorer is not None:
                ranked = self._reranked(ranked, scorer, taken, chosen.n)
            found = self._shown(ranked, taken)
        basis: Basis = "history" if len(taken) else "popularity"
        if intent is not None:
            basis = "history and intent" if len(taken) else "intent"
        return Recommendations(found, basis, name, tuple(errors), (time.perf_counter() - began_s) * 1e3)

    def similar(self, item: Any, n: int = 10) -> Recommendations:
        """Return the items most like one: taken by the same users, or alike in text. Raises `FieldError`."""
        began_s = time.perf_counter()
        count = RankOptions(n=n).n
        with self._lock:
            place = self._items.get(checked_name("item", item))
            if place is None:
                raise FieldError("item", f"there is no item {item!r} in the log")
            parts = self.fitted.parts
            shares = np.zeros((parts.items, 2), np.float32)
            shares[parts.neighbours.places[place], 0] = parts.neighbours.cosines[place]
            if parts.vectors is not None:
                shares[:, 1] = 0.5 * (parts.vectors.values @ parts.vectors.values[place])
            scores = shares.sum(axis=1)
            scores[place] = -np.inf
            found = tuple(
                Recommendation(
                    self.fitted.log.items[at],
                    float(scores[at]),
                    self.fitted.texts[at],
                    {"neighbours": float(shares[at, 0]), "content": float(shares[at, 1])},
                )
                for at in fusion.top_of(scores, count)
                if scores[at] > 0
            )
        return Recommendations(found, "item", took_ms=(time.perf_counter() - began_s) * 1e3)

    def add_events(self, events: Iterable[Row], texts: Mapping[Any, str] | None = None) -> int:
        """Add events and perhaps texts of new items; return how many rows were sound. Nothing is fitted again.

        Histories and popularity follow at once; new items are found by popularity, and by text with an encoder.
        ``errors`` has the rows that were left out.
        """
        with self._lock:
            before = self.fitted
            old = before.log
            new = list(events)
            named = [checked_name("item", each) for each in texts or {}]
            read = read_events(new, old.users, dict.fromkeys([*old.items, *named]))
            log, self.errors = merged(old, read), read.errors
            added = dict(zip(named, (str(each)[:MAX_ITEM_TEXT] for each in (texts or {}).values()), strict=True))
            words = tuple(added.get(item, old_text) for item, old_text in _paired(log.items, before.texts))
            parts = grown(before.parts, len(log.items), self._new_vectors(words))
            self.fitted = replace(before, log=log, parts=parts.with_counts(log), texts=words)
            self._number(log)
            return len(new) - len(self.errors)

    def _reranked(self, ranked: ItemRanking, scorer: CandidateScorer, taken: History, n: int) -> ItemRanking:
        texts = [self.fitted.texts[place] for place in ranked.places[:DEPTH]]
        judged = scorer.score([self.fitted.texts[place] for place in taken.places], texts)
        again = reranked(ranked, judged)
        return ItemRanking(again.places[:n], again.scores[:n], again.shares[:n])

    # ---- inside ----------------------------------------------------------------------------------

    def _number(self, log: EventLog) -> None:
        self._users = {name: number for number, name in enumerate(log.users)}
        self._items = {name: number for number, name in enumerate(log.items)}
        self._histories = fusion.histories_of(log, len(log.users))

    def _history(self, user: Any, history: Iterable[Any] | None) -> tuple[History, list[RowError]]:
        if user is not None and history is not None:
            raise FieldError("history", "give a user or a history, not both")
        if history is None:
            number = None if user is None else self._users.get(checked_name("user", user))
            taken = _NO_HISTORY if number is None else self._histories[number]
            return History(taken.places[-MAX_HISTORY:], taken.weights[-MAX_HISTORY:]), []
        found: dict[int, float] = {}
        errors: list[RowError] = []
        for index, each in enumerate(history):
            item, weight = each if isinstance(each, (tuple, list)) and len(each) == 2 else (each, 1.0)
            try:
                place = self._items.get(checked_name("item", item))
                if place is None:
                    raise FieldError("item", f"there is no item {item!r} in the log")
                found[place] = float(read_events([("-", "-", 0, weight)]).weight[0]) if weight != 1.0 else 1.0
            except (FieldError, IndexError) as error:
                reason = str(error) if isinstance(error, FieldError) else f"weight: must be above 0, not {weight!r}"
                errors.append(RowError(index, reason))
        latest = list(found.items())[-MAX_HISTORY:]
        places = np.array([place for place, _ in latest], np.int32)
        return History(places, np.array([weight for _, weight in latest], np.float32)), errors

    def _aim(self, intent: str | Floats) -> Floats:
        """Return the likeness of each item's text to a sentence, ``[items]``."""
        vectors = self.fitted.parts.vectors
        if vectors is not None and not isinstance(intent, str):
            if intent.shape != vectors.mean.shape:
                raise FieldError("intent", f"must be a vector of {len(vectors.mean)} numbers, as the items' texts have")
            return vectors.likeness(intent)
        if vectors is None or self.encoder is None or not isinstance(intent, str):
            raise FieldError("intent", "needs texts of items and an encoder: fit with texts and an encoder")
        read = embed_texts(self.encoder, [intent])
        if read.errors[0] is not None:
            raise FieldError("intent", read.errors[0].partition(": ")[2])
        return vectors.likeness(read.values[0])

    def _new_vectors(self, texts: Sequence[str]) -> ItemVectors | None:
        """Return the items' vectors with those of new texts."""
        vectors = self.fitted.parts.vectors
        new = [place for place in range(len(self.fitted.texts), len(texts)) if texts[place]]
        if vectors is None or self.encoder is None or not new:
            return vectors
        values = np.zeros((len(texts), vectors.values.shape[1]), np.float32)
        values[: len(vectors.values)] = vectors.values
        read = embed_texts(self.encoder, [texts[place] for place in new])
        centred = read.values - vectors.mean
        values[new] = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-9)
        return ItemVectors(values, vectors.mean)

    def _shown(self, ranked: ItemRanking, taken: History) -> tuple[Recommendation, ...]:
        fitted, names = self.fitted, (*PARTS, "intent")
        raised = self._raised(ranked.places, taken)
        return tuple(
            Recommendation(
                fitted.log.items[place],
                score,
                fitted.texts[place],
                {name: value for name, value in zip(names, shares, strict=True) if value},
                self._because(effects, taken),
            )
            for place, score, shares, effects in zip(
                ranked.places.tolist(), ranked.scores.tolist(), ranked.shares.tolist(), raised, strict=True
            )
        )

    def _raised(self, places: NDArray[np.int64], taken: History) -> Floats:
        """Return how much each item of a history raises some items, ``[items, history]``: by EASE, or else by text."""
        parts = self.fitted.parts
        effects = np.maximum(parts.ease.effects(places, taken.places, taken.weights), 0)
        without = ~effects.any(axis=1)
        if parts.vectors is not None and without.any():
            values = parts.vectors.values
            effects[without] = np.maximum(taken.weights * (values[places[without]] @ values[taken.places].T), 0)
        return effects

    def _because(self, raised: Floats, taken: History) -> tuple[tuple[str, float], ...]:
        """Return the items of a history that raise an item most, with their shares of what the history adds."""
        total = float(raised.sum())
        best = fusion.top_of(raised, BECAUSE)
        return tuple(
            (self.fitted.log.items[int(taken.places[at])], float(raised[at]) / total) for at in best if raised[at] > 0
        )


def deeper(options: RankOptions, scorer: CandidateScorer | None) -> RankOptions:
    """Return the options with as many candidates as a scorer reads."""
    return options if scorer is None else replace(options, n=max(options.n, DEPTH))


def read_texts(encoder: Encoder, texts: Sequence[str]) -> ItemVectors:
    """Return the vectors of items' texts; items without one have zeros."""
    places = [place for place, text in enumerate(texts) if text.strip()]
    read = embed_texts(encoder, [texts[place] for place in places])
    values = np.zeros((len(texts), read.values.shape[1]), np.float32)
    values[places] = read.values
    return ItemVectors.of(values, np.isin(np.arange(len(texts)), places))


def fit_parts(
    log: EventLog, texts: Sequence[str], vectors: ItemVectors | None, weights: Sequence[float] | None = None
) -> Fitted:
    """Fit all parts to a log; penalty and weights are learned from held-out events where there are enough users."""
    if weights is not None and (len(weights) != len(PARTS) or not np.isfinite(weights).all()):
        raise FieldError("weights", f"must be {len(PARTS)} numbers, one for each of {', '.join(PARTS)}")
    trials = [trial for way in fusion.WAYS if (trial := fusion.hold_out(log, way)) is not None]
    penalty, chosen = fusion.DEFAULT_PENALTY, tuple(weights or fusion.DEFAULT_WEIGHTS)
    learned = bool(trials) and weights is None
    if trials:
        spectra = [spectrum_of(_matrix(trial.before)) for trial in trials]
        penalty = fusion.choose_penalty(list(zip(spectra, trials, strict=True)))
        if learned:
            eases = [EaseModel.of(spectrum, penalty) for spectrum in spectra]
            pairs = zip(trials, eases, strict=True)
            chosen = fusion.learn_weights([(_parts(trial.before, ease, vectors), trial) for trial, ease in pairs])
    parts = _parts(log, EaseModel.of(spectrum_of(_matrix(log)), penalty), vectors)
    return Fitted(replace(log, errors=()), parts, chosen, penalty, learned, tuple(texts))


def grown(parts: Parts, items: int, vectors: ItemVectors | None) -> Parts:
    """Return parts with places for more items, which have no directions and no neighbours yet."""
    more = items - parts.items
    ease, near = parts.ease, parts.neighbours
    if vectors is not None and len(vectors.values) < items:
        vectors = replace(vectors, values=np.pad(vectors.values, ((0, items - len(vectors.values)), (0, 0))))
    return Parts(
        replace(
            ease,
            directions=np.pad(ease.directions, ((0, more), (0, 0))),
            scale=np.pad(ease.scale, (0, more), constant_values=1.0),
        ),
        ItemNeighbours(np.pad(near.places, ((0, more), (0, 0))), np.pad(near.cosines, ((0, more), (0, 0)))),
        np.pad(parts.popular, (0, more)),
        np.pad(parts.recent, (0, more)),
        vectors,
    )


def _parts(log: EventLog, ease: EaseModel, vectors: ItemVectors | None) -> Parts:
    popular, recent = popularity(log, len(log.items))
    return Parts(ease, neighbours_of(_matrix(log, plain=True)), popular, recent, vectors)


def _matrix(log: EventLog, plain: bool = False) -> Any:
    weight = np.ones(len(log), np.float32) if plain else log.weight / log.weight.mean()
    return matrix_of(log.user, log.item, weight, len(log.users), len(log.items))


def _paired(items: Sequence[str], texts: Sequence[str]) -> Iterable[tuple[str, str]]:
    return zip(items, (*texts, *[""] * (len(items) - len(texts))), strict=True)
