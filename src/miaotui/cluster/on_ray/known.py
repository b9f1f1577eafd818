"""Names of the replicas that Ray Serve runs, by deployment, as it told this process last.

Owns the table between Serve's router, whose class Ray copies by value into this process, and the pools here. Knows
neither Ray nor replicas. Safe to use from several threads.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

NAMED = "replica"  # the key of a message that names who shall have it

_names: dict[str, tuple[str, ...]] = {}
_lock = threading.Lock()


def tell(deployment: str, names: Iterable[str]) -> None:
    """Note which replicas a deployment has."""
    with _lock:
        _names[deployment] = tuple(names)


def forget(deployment: str, name: str) -> None:
    """Leave a replica out that died."""
    with _lock:
        _names[deployment] = tuple(each for each in _names.get(deployment, ()) if each != name)


def names_of(deployment: str) -> tuple[str, ...]:
    """Return the names of a deployment's replicas; none as long as Serve has told none."""
    with _lock:
        return _names.get(deployment, ())
