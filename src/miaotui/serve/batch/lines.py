"""The lines of a batch: requests in, answers out, in the form of OpenAI's batch files.

Owns both forms, the checks and the file of answers, which a later run continues. Knows no model. Invariants: each line
has one answer or one error, under its own ``custom_id``; an answer in the file is whole, and is not computed again; the
answer of another request is not taken for that of this one.
Source: OpenAI's guide to the Batch API (platform.openai.com/docs/guides/batch), fields of input and output files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from miaotui.errors import RequestError

URLS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/messages",
    "/v1/rerank",
    "/v1/classify",
)
MOST_LINE_BYTES = 8 << 20
MOST_ID = 512  # characters of a ``custom_id``
_LINE_FIELDS = {"custom_id", "method", "url", "body"}


@dataclass(frozen=True)
class BatchLine:
    """One request of a batch. ``id`` is a digest of the line, so that equal requests have equal ones."""

    id: str
    custom_id: str
    url: str
    body: Mapping[str, Any]


@dataclass(frozen=True)
class BatchFault:
    """A line that is no request, and why."""

    id: str
    custom_id: str | None
    reason: str


def read_lines(path: Path) -> Iterator[BatchLine | BatchFault]:
    """Yield the requests of a file in their order; empty lines are skipped. Raises `RequestError` for the file."""
    seen: set[str] = set()
    try:
        with path.open("rb") as file:
            number = 0
            while raw := file.readline(MOST_LINE_BYTES + 1):
                number += 1
                rest = raw
                while len(rest) > MOST_LINE_BYTES and not rest.endswith(b"\n"):  # of a line that is too long
                    rest = file.readline(MOST_LINE_BYTES + 1)
                if not raw.strip():
                    continue
                found = read_line(raw, number)
                if found.custom_id is not None and found.custom_id in seen:
                    found = BatchFault(
                        _fault_id(raw, number), found.custom_id, _at(number, "custom_id was there before")
                    )
                if found.custom_id is not None:
                    seen.add(found.custom_id)
                yield found
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from error


def read_line(raw: bytes, number: int) -> BatchLine | BatchFault:
    """Return the request of one line, or why it is none."""
    if len(raw) > MOST_LINE_BYTES:
        return BatchFault(_fault_id(raw, number), None, _at(number, f"it has more than {MOST_LINE_BYTES:,} bytes"))
    try:
        values = json.loads(raw)
    except (ValueError, RecursionError) as error:
        return BatchFault(_fault_id(raw, number), None, _at(number, f"it is not JSON: {error}"))
    custom_id = values.get("custom_id") if isinstance(values, dict) else None
    if not isinstance(custom_id, str) or not 1 <= len(custom_id) <= MOST_ID:
        reason = f"expected an object with a custom_id of 1 to {MOST_ID} characters"
        return BatchFault(_fault_id(raw, number), None, _at(number, reason))
    fault = _fault_of(values)
    if fault is not None:
        return BatchFault(_fault_id(raw, number), custom_id, _at(number, fault))
    content = json.dumps([custom_id, values["url"], values["body"]], sort_keys=True)
    return BatchLine(_digest(content.encode("utf-8", "surrogatepass")), custom_id, values["url"], values["body"])


def _fault_of(values: Mapping[str, Any]) -> str | None:
    if unknown := sorted(map(str, values.keys() - _LINE_FIELDS)):
        return f"unknown field {unknown[0]!r}: expected custom_id, method, url and body"
    if values.get("method", "POST") != "POST":
        return "method: expected POST"
    if values.get("url") not in URLS:
        return f"url: expected one of {', '.join(URLS)}"
    body = values.get("body")
    if not isinstance(body, dict):
        return "body: expected an object"
    return "body.stream: answers of a batch come whole, leave it out" if body.get("stream") else None


def answered(line: BatchLine, status: int, body: Any, request_id: str) -> dict[str, Any]:
    """Return the line of an answer, whatever its status is."""
    response = {"status_code": status, "request_id": request_id, "body": body}
    return {"id": line.id, "custom_id": line.custom_id, "response": response, "error": None}


def failed(line: BatchLine | BatchFault, code: str, reason: str) -> dict[str, Any]:
    """Return the line of a request that was not answered."""
    error = {"code": code, "message": reason}
    return {"id": line.id, "custom_id": line.custom_id, "response": None, "error": error}


class BatchOutput:
    """The file of answers. What it holds from an earlier run stays; a line that was cut off is removed."""

    def __init__(self, path: Path) -> None:
        """Open the file, made if it is missing. Raises `RequestError`."""
        self._path = path
        self._ids: dict[str, str] = {}  # by custom_id
        self._faults: set[str] = set()
        self.kept = 0  # answers of earlier runs
        try:
            self._file: IO[bytes] = path.open("r+b" if path.exists() else "w+b")
            size = self._take_in()
            self._file.seek(size)
            self._file.truncate()
        except OSError as error:
            raise RequestError(f"{path} cannot be written: {error.strerror}") from error

    def has(self, line: BatchLine | BatchFault) -> bool:
        """Return whether the file holds the answer of this line. Raises `RequestError` for one of another request."""
        if isinstance(line, BatchFault):
            return line.id in self._faults
        known = self._ids.get(line.custom_id)
        if known is not None and known != line.id:
            raise RequestError(
                f"{self._path} holds the answer of another request {line.custom_id!r}: name another file for this batch"
            )
        return known is not None

    def write(self, answer: Mapping[str, Any]) -> None:
        """Add an answer, which is in the file when this returns. Raises `RequestError`."""
        try:
            self._file.write(json.dumps(answer, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")
            self._file.flush()
        except OSError as error:
            raise RequestError(
                f"{self._path} cannot be written: {error.strerror}. Make room, and run the same command again: it goes "
                "on behind what is there"
            ) from error
        self._note(answer)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _note(self, answer: Mapping[str, Any]) -> None:
        if answer["response"] is None and answer["error"]["code"] == "invalid_line":
            self._faults.add(str(answer["id"]))
        else:
            self._ids[str(answer["custom_id"])] = str(answer["id"])

    def _take_in(self) -> int:
        """Return the bytes of the whole lines that are there. Raises `RequestError` for a file of another kind."""
        size = 0
        for number, raw in enumerate(self._file, 1):
            if not raw.endswith(b"\n"):
                break
            try:
                answer = json.loads(raw)
                self._note({name: answer[name] for name in ("id", "custom_id", "response", "error")})
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise RequestError(
                    f"{self._path} holds no answers of a batch (line {number}): name another file"
                ) from error
            size += len(raw)
            self.kept += 1
        return size


def _digest(content: bytes) -> str:
    return f"batch_req_{hashlib.sha256(content).hexdigest()[:32]}"


def _fault_id(raw: bytes, number: int) -> str:
    return _digest(f"{number}:".encode() + raw)


def _at(number: int, reason: str) -> str:
    return f"line {number}: {reason}"
