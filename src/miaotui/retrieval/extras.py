"""Lazy loading of libraries that only document search needs.

Owns the message that says how to install them. Knows nothing of what the libraries do. Invariant: importing any
module of `miaotui.retrieval` loads none of them.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from miaotui.errors import RequestError


def need(module: str, extra: str = "fsr") -> ModuleType:
    """Return the module of that name; raises `RequestError` saying how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise RequestError(
            f"{module} is not installed here; searching documents needs it. Run: pip install 'miaotui[{extra}]'"
        ) from error
