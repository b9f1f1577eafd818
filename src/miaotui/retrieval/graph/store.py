"""A knowledge graph in memory: triples by subject and relation, names of entities, and its file.

Owns the numbering of entities and relations and what a triple adds or removes. Knows no words of questions. Invariants:
a triple stands once; objects come in the order in which they were added; entities keep their names as they were given.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miaotui.config import Settings
from miaotui.errors import ModelFormatError, ModelNotFoundError, RequestError
from miaotui.hub.files import write_whole
from miaotui.hub.formats.untrusted_json import parse_object
from miaotui.retrieval.graph.triples import ALIAS, MAX_TRIPLES, Triple, TripleError, checked_triples
from miaotui.retrieval.index.settings import checked_name

FORMAT, VERSION = "miaotui-graph", 1
MAX_FILE_BYTES = 1 << 30


def place_of(name: str) -> Path:
    """Return the file of a graph: of that name in miaotui's folder, or where a path leads. Raises `RequestError`."""
    if os.sep in name or name.endswith(".json"):
        return Path(name)
    return Settings.from_env().folder("graphs") / f"{checked_name(name)}.json"


class KnowledgeGraph:
    """Triples by number of entity and relation. ``errors``: rows that the last `add` left out.

    ``lexicon`` has what a `GraphReader` has learned of words, so that the file keeps it; ``version`` changes with every
    triple.
    """

    def __init__(self, triples: Iterable[Iterable[object]] = ()) -> None:
        self.entities: list[str] = []
        self.relations: list[str] = []
        self.aliases: list[tuple[str, int]] = []
        self.lexicon: Mapping[str, Any] | None = None
        self.errors: list[TripleError] = []
        self.version = 0
        self._entities: dict[str, int] = {}
        self._relations: dict[str, int] = {}
        self._forward: dict[tuple[int, int], dict[int, None]] = {}
        self._backward: dict[tuple[int, int], dict[int, None]] = {}
        self._count = 0
        self.add(triples)

    def __len__(self) -> int:
        return self._count

    def __contains__(self, triple: tuple[str, str, str]) -> bool:
        numbers = self._numbers(*triple)
        return numbers is not None and numbers[2] in self._forward.get(numbers[:2], {})

    def __iter__(self) -> Iterator[Triple]:
        for (subject, relation), objects in self._forward.items():
            for each in objects:
                yield Triple(self.entities[subject], self.relations[relation], self.entities[each])

    def add(self, triples: Iterable[Iterable[object]]) -> int:
        """Add triples and return how many were new. A relation `alias` gives its subject another name.

        Rows that are no triples are left out, with their reasons in ``errors``. Raises `RequestError` for more than
        `MAX_TRIPLES`.
        """
        sound, self.errors = checked_triples(triples)
        new = 0
        for subject, relation, value in sound:
            if relation == ALIAS:
                self._add_alias(value, self._entity(subject))
                continue
            source, kind, target = self._entity(subject), self._relation(relation), self._entity(value)
            objects = self._forward.setdefault((source, kind), {})
            if target not in objects:
                objects[target] = None
                self._backward.setdefault((target, kind), {})[source] = None
                new += 1
        self._count += new
        self.version += 1
        if self._count > MAX_TRIPLES:
            raise RequestError(f"a graph has at most {MAX_TRIPLES:,} triples")
        return new

    def remove(self, triple: tuple[str, str, str]) -> bool:
        """Remove a triple; whether it was there. Its entities and its relation keep their numbers."""
        if triple not in self:
            return False
        source, kind, target = self._entity(triple[0]), self._relation(triple[1]), self._entity(triple[2])
        for index, key, value in ((self._forward, (source, kind), target), (self._backward, (target, kind), source)):
            del index[key][value]
            if not index[key]:
                del index[key]
        self._count -= 1
        self.version += 1
        return True

    def objects(self, subject: int, relation: int) -> Iterable[int]:
        """Return the objects of a subject and a relation."""
        return self._forward.get((subject, relation), {})

    def subjects(self, value: int, relation: int) -> Iterable[int]:
        """Return the subjects of an object and a relation."""
        return self._backward.get((value, relation), {})

    def meetings(self) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Return whether objects of one relation are subjects of another, ``[first, second]``, and the triples."""
        met = np.zeros((len(self.relations), len(self.relations)), bool)
        counts = np.zeros(len(self.relations), np.int64)
        following: dict[int, list[int]] = {}
        for (subject, relation), objects in self._forward.items():
            following.setdefault(subject, []).append(relation)
            counts[relation] += len(objects)
        for value, relation in self._backward:
            met[relation, following.get(value, [])] = True
        return met, counts

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the graph to a file, whole or not at all. Raises `CacheError`."""
        place = Path(path)
        numbers = [(s, r, o) for (s, r), objects in self._forward.items() for o in objects]
        content = {
            "format": FORMAT,
            "version": VERSION,
            "entities": self.entities,
            "relations": self.relations,
            "aliases": self.aliases,
            "lexicon": self.lexicon,
            "triples": base64.b64encode(np.array(numbers, "<i4").tobytes()).decode(),
        }
        text = json.dumps(content, ensure_ascii=False)
        write_whole(place, "the graph", lambda file: file.write(text.encode()))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> KnowledgeGraph:
        """Read a graph. Raises `ModelNotFoundError`, and `ModelFormatError` for a file that is none."""
        place = Path(path)
        try:
            with place.open("rb") as file:
                content = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise ModelNotFoundError(f"the graph {place} cannot be read: {error.strerror}") from error
        if len(content) > MAX_FILE_BYTES:
            raise ModelFormatError(f"{place} is longer than {MAX_FILE_BYTES:,} bytes, too long for a graph")
        try:
            return cls._read(parse_object(content, str(place)))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, binascii.Error) as error:
            raise ModelFormatError(f"{place} is no graph: {error}; save it again") from error

    @classmethod
    def _read(cls, values: Mapping[str, Any]) -> KnowledgeGraph:
        if values["format"] != FORMAT or values["version"] != VERSION:
            raise ValueError(f"expected format {FORMAT} of version {VERSION}, found {values['version']!r:.20}")
        entities, relations = values["entities"], values["relations"]
        numbers = np.frombuffer(base64.b64decode(values["triples"], validate=True), "<i4").reshape(-1, 3)
        highest = np.array([len(entities), len(relations), len(entities)])
        if len(numbers) and (numbers.min() < 0 or (numbers.max(axis=0) >= highest).any()):
            raise ValueError("its triples name entities or relations that it lacks")
        graph = cls((entities[s], relations[r], entities[o]) for s, r, o in numbers.tolist())
        wrong = graph.errors
        graph.add((entities[number], ALIAS, name) for name, number in values["aliases"])
        if wrong or graph.errors:
            raise ValueError([*wrong, *graph.errors][0].reason)
        graph.lexicon = values["lexicon"]
        return graph

    def _entity(self, name: str) -> int:
        number = self._entities.setdefault(name, len(self._entities))
        if number == len(self.entities):
            self.entities.append(name)
        return number

    def _relation(self, name: str) -> int:
        number = self._relations.setdefault(name, len(self._relations))
        if number == len(self.relations):
            self.relations.append(name)
        return number

    def _add_alias(self, name: str, entity: int) -> None:
        if (name, entity) not in self.aliases:
            self.aliases.append((name, entity))

    def _numbers(self, subject: str, relation: str, value: str) -> tuple[int, int, int] | None:
        found = self._entities.get(subject), self._relations.get(relation), self._entities.get(value)
        return None if None in found else found  # type: ignore[return-value]  # no number is None here
