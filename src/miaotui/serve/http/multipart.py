"""Forms with files (``multipart/form-data``): the parts of a body that has been received whole.

Owns the bounds on parts, names and plain fields, and the errors for what breaks them. The syntax is python-multipart's
(extra ``speech``). Knows no route. Invariants: a form's parts take no more memory than its body twice; nothing is
written to disk. Source: RFC 7578.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from miaotui.libraries import need
from miaotui.serve.http.errors import ApiError

MAX_FORM_PARTS = 64
MAX_FORM_HEADER_BYTES = 4096  # of one part, all together
MAX_FORM_FIELD_BYTES = 256 << 10  # of one part that is no file
MAX_BOUNDARY_BYTES = 70  # RFC 2046


@dataclass
class FormPart:
    """One part: its name, its file's name (None: a plain field) and its content."""

    name: str
    filename: str | None
    content: bytes

    @property
    def text(self) -> str:
        """Return the content as text. Raises `ApiError` (400) unless it is UTF-8."""
        try:
            return self.content.decode()
        except UnicodeDecodeError:
            raise _wrong(f"the field {self.name[:64]} is not in UTF-8") from None


def read_form(body: bytes, content_type: str) -> list[FormPart]:
    """Return the parts of a form, in order. Raises `ApiError` (400, 415)."""
    library = need("python_multipart.multipart")
    kind, options = library.parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data":
        message = "Send a form: Content-Type must be multipart/form-data"
        raise ApiError(415, message, code="unsupported_media_type")
    if not 0 < len(boundary) <= MAX_BOUNDARY_BYTES:
        raise _wrong("its Content-Type names no boundary of 1 to 70 bytes")
    reading = _Reading(library)
    parser = library.MultipartParser(boundary, reading.callbacks)
    try:
        parser.write(body)
        parser.finalize()
    except library.MultipartParseError as error:
        raise _wrong(" ".join(str(error).split())[:120]) from None
    if not reading.is_over:
        raise _wrong("it ends before its last boundary")
    return reading.parts


@dataclass
class _Reading:
    """Callbacks of python-multipart: they put the parts together, within their bounds."""

    library: Any
    parts: list[FormPart] = field(default_factory=list)
    is_over: bool = False

    def __post_init__(self) -> None:
        self._name, self._value = bytearray(), bytearray()
        self._headers: dict[bytes, bytes] = {}
        self._header_bytes = 0
        self._pieces: list[bytes] = []
        self._size = 0
        self._part: FormPart | None = None

    @property
    def callbacks(self) -> dict[str, Any]:
        """Return the parser's callbacks."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._header(self._name, data[start:end]),
            "on_header_value": lambda data, start, end: self._header(self._value, data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._finish,
        }

    def _begin(self) -> None:
        if len(self.parts) >= MAX_FORM_PARTS:
            raise _wrong(f"it has more than {MAX_FORM_PARTS} parts")
        self._headers, self._header_bytes = {}, 0
        self._pieces, self._size = [], 0

    def _header(self, into: bytearray, data: bytes) -> None:
        self._header_bytes += len(data)
        if self._header_bytes > MAX_FORM_HEADER_BYTES:
            raise _wrong(f"a part's head has more than {MAX_FORM_HEADER_BYTES:,} bytes")
        into += data

    def _end_header(self) -> None:
        self._headers[bytes(self._name).lower()] = bytes(self._value)
        self._name.clear()
        self._value.clear()

    def _end_headers(self) -> None:
        disposition = self._headers.get(b"content-disposition", b"")
        kind, options = self.library.parse_options_header(disposition)
        if kind != b"form-data" or not options.get(b"name"):
            raise _wrong("a part has no name in its Content-Disposition")
        filename = options.get(b"filename")
        shown = None if filename is None else filename.decode("utf-8", "replace")
        self._part = FormPart(options[b"name"].decode("utf-8", "replace"), shown, b"")

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._size += end - start
        if self._part is not None and self._part.filename is None and self._size > MAX_FORM_FIELD_BYTES:
            raise _wrong(f"the field {self._part.name[:64]} has more than {MAX_FORM_FIELD_BYTES:,} bytes")
        self._pieces.append(data[start:end])

    def _end(self) -> None:
        if self._part is not None:
            self._part.content = b"".join(self._pieces)
            self.parts.append(self._part)
        self._part, self._pieces = None, []

    def _finish(self) -> None:
        self.is_over = True


def _wrong(problem: str) -> ApiError:
    return ApiError(400, f"The form cannot be read: {problem}", code="invalid_form")
