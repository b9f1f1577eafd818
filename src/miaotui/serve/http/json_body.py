"""JSON from clients, which is not trusted.

Owns the bounds that Python's parser lacks: depth, length of numbers, repeated keys, NaN. Knows no
route. Invariant: the result is a dict of plain data, or an `ApiError` with status 400 says why not;
it never takes more than a few times the body's size.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import BaseModel

from miaotui.serve.http.errors import ApiError, from_validation

Body = TypeVar("Body", bound=BaseModel)
IGNORED = "X-Ignored-Fields"

MAX_JSON_DEPTH = 64
MAX_JSON_COMMAS = 300_000  # counted with those in texts, before anything is made
MAX_JSON_LISTS = 1 << 16  # likewise
MAX_JSON_OBJECTS = 50_000
MAX_JSON_MEMBERS = 4096  # of one object
MAX_NUMBER_DIGITS = 4300
MAX_IGNORED_NAMES = 32  # named in X-Ignored-Fields
INLINE_BYTES = 64 << 10  # bodies up to here are read in the event loop itself


def read_object(body: bytes) -> dict[str, Any]:
    """Parse the JSON object in ``body``. Raises `ApiError` (400)."""
    if body.count(b",") > MAX_JSON_COMMAS or body.count(b"[") > MAX_JSON_LISTS:
        raise _not_json("it holds more values or lists than any request needs")
    try:
        value = json.loads(
            body.decode(),
            object_pairs_hook=_Objects().make,
            parse_constant=_no_constant,
            parse_float=_number,
            **_LONG_INTEGERS,
        )
    except RecursionError:
        raise _not_json("it is nested too deeply") from None
    except ValueError as error:
        raise _not_json(str(error)[:200]) from None
    if not isinstance(value, dict):
        raise _not_json(f"it holds a {type(value).__name__}, not an object")
    if body.count(b"[") + body.count(b"{") > MAX_JSON_DEPTH:
        _check_depth(value)
    return value


async def read_body(body: bytes, model: type[Body]) -> Body:
    """Read the body as ``model``, in a thread if it is large.

    Raises `ApiError` (400) that names the field that is wrong.
    """
    if len(body) <= INLINE_BYTES:
        return _read_body(body, model)
    return await asyncio.to_thread(_read_body, body, model)


def _read_body(body: bytes, model: type[Body]) -> Body:
    value = read_object(body)
    try:
        return model.model_validate(value)
    except ValueError as error:  # pydantic's ValidationError is one
        raise from_validation(error) from None  # type: ignore[arg-type]


def ignored_fields(body: BaseModel) -> dict[str, str]:
    """Return the header that names what of the body was not understood; none if all was."""
    names = list(body.model_extra or ())
    for field in ("stream_options",):
        inner = getattr(body, field, None)
        if isinstance(inner, BaseModel):
            names += [f"{field}.{name}" for name in inner.model_extra or ()]
    shown = [_printable(name) for name in names[:MAX_IGNORED_NAMES]]
    if len(names) > MAX_IGNORED_NAMES:
        shown.append("...")
    return {IGNORED: ", ".join(shown)} if shown else {}


def _printable(name: str) -> str:
    """Return a name as a header may hold it: nothing of it can end a line or the list."""
    kept = (c if c.isascii() and (c.isalnum() or c in "_.-") else "?" for c in name[:64])
    return "".join(kept) or "?"


def _check_depth(value: Any) -> None:
    level: list[Any] = [value]
    for _ in range(MAX_JSON_DEPTH):
        inner: list[Any] = []
        for part in level:
            members = part.values() if isinstance(part, dict) else part
            inner += [m for m in members if isinstance(m, (dict, list))]
        if not inner:
            return
        level = inner
    raise _not_json(f"it is nested more than {MAX_JSON_DEPTH} levels deep")


def _not_json(problem: str) -> ApiError:
    message = f"The body must be one JSON object in UTF-8: {problem}"
    return ApiError(400, message, code="invalid_json")


class _Objects:
    """Makes the objects of one body; few enough, and none with a key twice."""

    def __init__(self) -> None:
        self._count = 0

    def make(self, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        """Make one object."""
        self._count += 1
        if self._count > MAX_JSON_OBJECTS:
            raise ValueError(f"it holds more than {MAX_JSON_OBJECTS:,} objects")
        if len(pairs) > MAX_JSON_MEMBERS:
            raise ValueError(f"an object has more than {MAX_JSON_MEMBERS:,} members")
        members = dict(pairs)
        if len(members) != len(pairs):
            raise ValueError("a key occurs twice in one object")
        return members


def _integer(digits: str) -> int:
    # Converting a long integer takes time quadratic in its length.
    if len(digits) > MAX_NUMBER_DIGITS:
        raise ValueError(f"a number has {len(digits)} digits, more than {MAX_NUMBER_DIGITS}")
    return int(digits)


def _number(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise ValueError("a number is too large")
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


# Since 3.10.7 Python itself refuses integers of more than some thousand digits.
_LONG_INTEGERS: dict[str, Any] = {} if hasattr(sys, "get_int_max_str_digits") else {"parse_int": _integer}
