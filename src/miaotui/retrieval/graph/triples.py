"""Triples in files: CSV, TSV, N-Triples and Turtle, read row by row.

Owns the formats and what is wrong with a row. Knows no graph. Invariant: a row that is no triple has an error in its
place, and the others are read; a file of more than `MAX_TRIPLES` rows is refused before it is held.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from miaotui.errors import FieldError, RequestError
from miaotui.libraries import need
from miaotui.retrieval.ingest.records import RecordReader, TextFile
from miaotui.retrieval.ingest.repair import SAMPLE_BYTES

MAX_TRIPLES = 5_000_000
MAX_FILE_BYTES = 1 << 30
MAX_NAME_CHARACTERS = 512
HEADERS = {("subject", "relation", "object"), ("head", "relation", "tail"), ("subject", "predicate", "object")}
HEADERS |= {("主语", "关系", "宾语"), ("主体", "关系", "客体"), ("头实体", "关系", "尾实体"), ("实体", "关系", "实体")}
ALIAS = "alias"  # relation of another name: its object is a text, not an entity
_LABELS = ("label", "prefLabel", "altLabel", "name")


class Triple(NamedTuple):
    """Edge of a graph: a subject, a relation and an object, by name."""

    subject: str
    relation: str
    object: str


@dataclass(frozen=True)
class TripleError:
    """Row that was left out, by its number from 1, and why."""

    row: int
    reason: str


def read_triples(path: str | Path) -> tuple[list[Triple], list[TripleError]]:
    """Return the triples of a file, by its name's ending, and the rows that were left out.

    Raises `RequestError` for a file that cannot be read or is too long, `MissingLibraryError` where RDF needs rdflib.
    """
    place = Path(path)
    try:
        if place.stat().st_size > MAX_FILE_BYTES:
            raise RequestError(f"{place} has more than {MAX_FILE_BYTES:,} bytes: share it out over several files")
        if place.suffix.lower() in (".nt", ".ttl"):
            return _rdf(place)
        with place.open("rb", buffering=SAMPLE_BYTES) as file:
            text = TextFile(file, str(place))
            if place.suffix.lower() == ".csv":
                return checked_triples(record.fields for record in RecordReader(text))
            return checked_triples(line.rstrip("\r\n").split("\t") for line in text.stream if line.strip())
    except OSError as error:
        raise RequestError(f"{place} cannot be read: {error.strerror}") from error


def checked_triples(rows: Iterable[Iterable[object]]) -> tuple[list[Triple], list[TripleError]]:
    """Return the rows that are triples, and the others with their reasons. Raises `RequestError` for too many."""
    found: list[Triple] = []
    errors: list[TripleError] = []
    for number, row in enumerate(rows, 1):
        fields = tuple(row)
        if number == 1 and tuple(str(each).strip().lower() for each in fields) in HEADERS:
            continue
        if number > MAX_TRIPLES:
            raise RequestError(f"there are more than {MAX_TRIPLES:,} triples: use a database of graphs")
        try:
            found.append(_triple(fields))
        except FieldError as error:
            errors.append(TripleError(number, str(error)))
    return found, errors


def _triple(fields: tuple[object, ...]) -> Triple:
    if len(fields) != 3:
        raise FieldError("triple", f"has {len(fields)} fields, not subject, relation and object")
    for name, value in zip(Triple._fields, fields, strict=True):
        if not isinstance(value, str) or not value.strip():
            raise FieldError(name, "must be a name, and not empty")
        if len(value) > MAX_NAME_CHARACTERS:
            raise FieldError(name, f"has {len(value):,} characters, and may have {MAX_NAME_CHARACTERS}")
        if any("\udc80" <= character <= "\udcff" for character in value):
            raise FieldError(name, "is not valid UTF-8: convert it first")
    return Triple(*(str(value).strip() for value in fields))


def _rdf(place: Path) -> tuple[list[Triple], list[TripleError]]:
    """Read RDF: labels of a resource become its names, other literals entities. Nothing is fetched."""
    rdflib = need("rdflib")
    graph = rdflib.Graph()
    try:
        graph.parse(str(place), format="nt" if place.suffix.lower() == ".nt" else "turtle")
    except OSError:
        raise
    except Exception as error:  # rdflib raises errors of several kinds for wrong syntax
        raise RequestError(f"{place} is no valid RDF: {' '.join(str(error).split()):.200}") from error
    labels: dict[object, str] = {}
    triples = sorted((str(s), str(p), str(o), s, p, o) for s, p, o in graph)
    for _, predicate, text, subject, _, value in triples:
        if short_name(predicate) in _LABELS and isinstance(value, rdflib.Literal):
            labels.setdefault(subject, text)
    found = []
    for _, predicate, text, subject, _, value in triples:
        name = labels.get(subject, short_name(str(subject)))
        if short_name(predicate) in _LABELS and isinstance(value, rdflib.Literal):
            if text != name:
                found.append((name, ALIAS, text))
        else:
            shown = text if isinstance(value, rdflib.Literal) else labels.get(value, short_name(text))
            found.append((name, short_name(predicate), shown))
    return checked_triples(found)


def short_name(iri: str) -> str:
    """Return the readable end of an IRI: what follows the last ``#`` or ``/``."""
    return unquote(re.split(r"[#/]", iri.rstrip("#/"))[-1]) or iri
