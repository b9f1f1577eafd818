"""Answers with many numbers, written item by item.

Owns the writing alone. Python's JSON encoder keeps the interpreter for as long as one call takes: a thousand vectors
in one call would hold up every other request for a quarter of a second. Invariant: the text is that of
`json_response`, but for the order of members.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from starlette.responses import Response

from miaotui.serve.http.bodies import run

NUMBER_CHARACTERS = 20  # of a number in JSON, about


async def list_response(
    items: Iterable[Any], n_numbers: int, headers: Mapping[str, str], around: Mapping[str, Any] | None = None
) -> Response:
    """Return a response of ``items``, in a thread if they have many numbers.

    They are the member ``data`` of the object ``around``; None: the whole answer is their list.
    """
    return await run(n_numbers * NUMBER_CHARACTERS, lambda: _response(items, headers, around))


def _response(items: Iterable[Any], headers: Mapping[str, str], around: Mapping[str, Any] | None) -> Response:
    listed = f"[{','.join(map(_text, items))}]"
    body = listed if around is None else f'{_text(around)[:-1]},"data":{listed}}}'
    return Response(body.encode("utf-8", "replace"), 200, dict(headers), media_type="application/json")


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{{','.join(f'{_text(name)}:{_text(member)}' for name, member in value.items())}}}"
    if isinstance(value, list) and value and isinstance(value[0], list):  # rows of numbers
        return f"[{','.join(map(_text, value))}]"
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
