"""Values of document search: documents, hits, results.

Owns their checks and the stored form of a passage. Knows nothing of analysis or of the index's layout. Invariant: an
existing `Document` can be indexed; every limit is checked when it is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import cached_property
from hashlib import blake2b
from typing import Any, overload

from miaotui.errors import RequestError

MAX_ID_CHARS = 512
MAX_TITLE_CHARS = 2_000
MAX_BODY_CHARS = 64_000_000
MAX_TAGS = 64


@dataclass(frozen=True)
class Document:
    """Document, or a passage of one.

    ``time_s`` is in seconds since 1970, UTC. ``document`` names the whole that a passage was cut from; empty: the
    document itself. Raises `RequestError` for fields out of bounds.
    """

    id: str
    body: str
    title: str = ""
    source: str = ""
    time_s: int | None = None
    language: str = ""
    tags: tuple[str, ...] = ()
    document: str = ""

    def __post_init__(self) -> None:
        for name, limit in (("id", MAX_ID_CHARS), ("document", MAX_ID_CHARS)):
            _check_text(name, getattr(self, name), limit)
        if not self.id:
            raise RequestError("a document needs an id that is not empty. Name it")
        _check_text("title", self.title, MAX_TITLE_CHARS)
        _check_text("body", self.body, MAX_BODY_CHARS)
        for name, text in (("source", self.source), ("language", self.language)):
            _check_text(name, text, MAX_TITLE_CHARS)
        if len(self.tags) > MAX_TAGS:
            raise RequestError(f"document {self.id!r} has {len(self.tags)} tags; {MAX_TAGS} fit")
        for tag in self.tags:
            _check_text("tag", tag, MAX_ID_CHARS)
        if self.time_s is not None and not -(2**50) < self.time_s < 2**50:
            raise RequestError(f"document {self.id!r}: time {self.time_s} is out of range")

    @property
    def whole(self) -> str:
        """Return the id of the document that this is a passage of."""
        return self.document or self.id

    def passage(self, number: int, title: str, body: str) -> Document:
        """Make passage ``number`` (from 1) of this document."""
        name = f"{self.id[: MAX_ID_CHARS - 12]}#{number}"
        return replace(self, id=name, title=title[:MAX_TITLE_CHARS], body=body, document=self.whole)

    def stored(self) -> bytes:
        """Return the bytes kept in the index, which `restored` reads: lengths of parts, then the parts. A search
        reads ten of them, so this is made to be read fast.
        """
        time_s = "" if self.time_s is None else str(self.time_s)
        parts = (self.id, self.document, self.title, self.body, self.source, self.language, time_s)
        all_parts = (*parts, *self.tags)
        return "".join([",".join(map(str, map(len, all_parts))), "\n", *all_parts]).encode()

    @classmethod
    def restored(cls, data: bytes) -> Document:
        """Return the document that `stored` made ``data`` of; its checks are not repeated."""
        head, _, text = data.decode().partition("\n")
        parts, start = [], 0
        for length in map(int, head.split(",")):
            parts.append(text[start : start + length])
            start += length
        name, whole, title, body, source, language, time_s, *tags = parts
        document = object.__new__(cls)
        document.__dict__.update(
            id=name,
            document=whole,
            title=title,
            body=body,
            source=source,
            language=language,
            time_s=int(time_s) if time_s else None,
            tags=tuple(tags),
        )
        return document

    def to_json(self) -> dict[str, Any]:
        """Return plain values; `from_mapping` reads them."""
        return {
            "id": self.id,
            "document": self.document,
            "title": self.title,
            "body": self.body,
            "source": self.source,
            "time": self.time_s,
            "language": self.language,
            "tags": list(self.tags),
        }

    @classmethod
    def from_mapping(cls, row: Mapping[str, Any], default_id: str = "") -> Document:
        """Return a document from named values, as JSON has them: ``id``, ``body`` (or ``text``), ``title``,
        ``source``, ``time`` (seconds or ISO 8601), ``language``, ``tags``.

        Raises `RequestError` naming the value that is wrong.
        """
        known = {"id", "body", "text", "title", "source", "time", "language", "tags", "document"}
        unknown = sorted(set(row) - known)
        if unknown:
            raise RequestError(f"a document has no field {unknown[0]!r}. Fields: {', '.join(sorted(known))}")
        texts = {name: _text(row, name) for name in ("title", "source", "language", "document", "text")}
        body = _text(row, "body") or texts.pop("text")
        texts.pop("text", None)
        tags = row.get("tags") or ()
        if isinstance(tags, str) or not isinstance(tags, Sequence):
            raise RequestError("a document's tags must be a list of words")
        name = row.get("id", default_id)
        if not isinstance(name, str | int):
            raise RequestError(f"a document's id must be text, not {name!r}")
        return cls(id=str(name), body=body, tags=tuple(tags), time_s=seconds(row.get("time")), **texts)


def seconds(value: object) -> int | None:
    """Return seconds since 1970 of ``value``: a number, an ISO 8601 date or time (UTC unless it names a zone), or
    None.

    Raises `RequestError` for anything else.
    """
    if value is None or value == "":
        return None
    try:
        if isinstance(value, int | float):
            return int(value)
        moment = datetime.fromisoformat(str(value).replace("Z", "+00:00"))
        zoned = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
        return int(zoned.timestamp())
    except (ValueError, OverflowError) as error:
        raise RequestError(
            f"{value!r} is no time; write 2026-01-31, 2026-01-31T12:00:00 or seconds since 1970"
        ) from error


def order_of(name: str) -> int:
    """Return the order among equally good passages: 32 bits of a digest of the id, so that it is equal everywhere."""
    return int.from_bytes(blake2b(name.encode(), digest_size=4).digest(), "little")


@dataclass(frozen=True)
class Hit:
    """Found passage. Higher scores are better; equal ones are ordered by `order_of`."""

    passage: Document
    score: float
    ranked: Any = field(default=None, repr=False, compare=False)
    cosine: float | None = field(default=None, repr=False, compare=False)  # the meaning's part of the score

    @property
    def id(self) -> str:
        """Return the passage's id."""
        return self.passage.id

    @property
    def document(self) -> str:
        """Return the id of the whole document."""
        return self.passage.whole

    @property
    def title(self) -> str:
        """Return the title, with the headings above the passage."""
        return self.passage.title

    @property
    def body(self) -> str:
        """Return the passage's text as it was given."""
        return self.passage.body

    @cached_property
    def snippet(self) -> str:
        """Return the best 200 characters or so as HTML, the query's words in ``<b>``; the rest escaped."""
        from miaotui.retrieval.query.snippets import snippet  # noqa: PLC0415  (most hits are never shown)

        return snippet(self.body, self.ranked.shown, self.ranked.analyzer)

    def to_json(self) -> dict[str, Any]:
        """Return this hit as plain values, as HTTP and ``--json`` give it."""
        more = {"document": self.document, "score": self.score, "snippet": self.snippet}
        return {**self.passage.to_json(), **more}


@dataclass(frozen=True)
class Results(Sequence[Hit]):
    """Hits of a search, best first, and the version of the index.

    ``warnings`` names partitions that did not answer; their passages are missing from ``hits``.
    """

    hits: tuple[Hit, ...]
    version: str
    warnings: tuple[str, ...] = ()

    @overload
    def __getitem__(self, place: int) -> Hit: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Hit, ...]: ...
    def __getitem__(self, place: int | slice) -> Hit | tuple[Hit, ...]:
        return self.hits[place]

    def __len__(self) -> int:
        return len(self.hits)

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)


def _check_text(name: str, value: object, limit: int) -> None:
    if not isinstance(value, str):
        raise RequestError(f"a document's {name} must be text, not {type(value).__name__}")
    if len(value) > limit:
        raise RequestError(f"a document's {name} has {len(value):,} characters; at most {limit:,} fit. Split it")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise RequestError(
                f"a document's {name} has half of a surrogate pair at {error.start}. Repair it"
            ) from error


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise RequestError(f"a document's {name} must be text, not {value!r:.40}")
    return value
