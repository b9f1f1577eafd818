"""Arrays of float32 in messages: bytes as text, and shapes.

Owns the form and its checks. Invariant: what `read_arrays` returns has the shapes that it names, of exactly the bytes
that came.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miaotui.errors import RequestError

Floats = NDArray[np.float32]
MOST_AXES = 4


def arrays_piece(arrays: Sequence[Floats]) -> dict[str, Any]:
    """Return float32 arrays of any shapes as JSON values."""
    data = b"".join(np.ascontiguousarray(each, np.dtype("<f4")).tobytes() for each in arrays)
    return {"shapes": [list(each.shape) for each in arrays], "f32": base64.b64encode(data).decode()}


def read_arrays(piece: Mapping[str, Any]) -> list[Floats]:
    """Return the arrays of JSON values. Raises `RequestError` for values that do not fit together."""
    try:
        data = base64.b64decode(piece["f32"], validate=True)
        shapes = [tuple(int(n) for n in each) for each in piece["shapes"]]
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise RequestError(f"a message with numbers is damaged: {type(error).__name__}: {error}") from error
    sizes = [math.prod(each) for each in shapes]
    if any(len(each) > MOST_AXES or min(each, default=1) < 0 for each in shapes) or 4 * sum(sizes) != len(data):
        raise RequestError(
            f"a message with numbers is damaged: {len(data):,} bytes for shapes of {sum(sizes):,} numbers"
        )
    whole, found, place = np.frombuffer(data, np.dtype("<f4")), list[Floats](), 0
    for shape, size in zip(shapes, sizes, strict=True):
        found.append(whole[place : place + size].astype(np.float32).reshape(shape))
        place += size
    return found
