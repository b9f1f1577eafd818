"""Typed reading of a file's key-value pairs: ``config.json`` or GGUF metadata.

Knows nothing of what the keys mean. Invariant: a returned value has the requested type and, for counts and lists,
lies within a bound; otherwise `ModelFormatError` names the key. ``null`` counts as absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from miaotui.errors import ModelFormatError
from miaotui.model.reading.checks import require, require_count


@dataclass(frozen=True)
class Fields:
    """Key-value pairs of one file. ``prefix`` is put before every key; ``where`` names the file."""

    values: Mapping[str, object]
    where: str
    prefix: str = ""

    def get(self, key: str) -> object:
        """Return the value as a plain Python object, or None."""
        value = self.values.get(self.prefix + key)
        return value.item() if isinstance(value, np.generic) else value

    def has(self, key: str) -> bool:
        """Return whether the key is there with a value."""
        return self.get(key) is not None

    def count(self, key: str, most: int, default: int | None = None) -> int:
        """Return a whole number in ``[1, most]``."""
        value = self._or_default(key, default)
        require_count(self._name(key), value, most)
        assert isinstance(value, int)
        return value

    def size(self, key: str, most: int) -> int:
        """Return a whole number in ``[0, most]``; 0 if absent."""
        value = self._or_default(key, 0)
        return 0 if value == 0 else self.count(key, most)

    def number(self, key: str, default: float | None = None) -> float:
        """Return a finite number."""
        return self._float(key, self._or_default(key, default))

    def numbers(self, key: str, count: int) -> tuple[float, ...]:
        """Return a list of ``count`` finite numbers."""
        values = self.sequence(key)
        expected = f"a list of {count} numbers"
        require(values is not None and len(values) == count, self._name(key), expected, self._brief(key))
        return tuple(self._float(key, value) for value in values or ())

    def flag(self, key: str, default: bool) -> bool:
        """Return a truth value."""
        value = self._or_default(key, default)
        require(isinstance(value, bool), self._name(key), "true or false", self._brief(key))
        return bool(value)

    def text(self, key: str, default: str | None = None) -> str:
        """Return a string."""
        value = self._or_default(key, default)
        require(isinstance(value, str), self._name(key), "a string", self._brief(key))
        return str(value)

    def sequence(self, key: str) -> list[object] | None:
        """Return a list, or None if the value is of another kind."""
        value = self.get(key)
        if isinstance(value, np.ndarray):
            return list(value.tolist())
        return list(value) if isinstance(value, (list, tuple)) else None

    def nested(self, key: str) -> Fields:
        """Return the pairs of an object within; empty if absent."""
        value = self._or_default(key, {})
        require(isinstance(value, dict), self._name(key), "an object", self._brief(key))
        assert isinstance(value, dict)
        return Fields(value, f"{self.where}, {key}")

    def _or_default(self, key: str, default: object) -> object:
        value = self.get(key)
        if value is None and default is None:
            raise ModelFormatError(
                f"{self.where} lacks {self.prefix + key!r}, which every such model has: "
                "the file is damaged; download it again"
            )
        return default if value is None else value

    def _float(self, key: str, value: object) -> float:
        plain = isinstance(value, (int, float)) and not isinstance(value, bool)
        finite = plain and abs(value) < 1e300  # type: ignore[arg-type]
        require(finite, self._name(key), "a finite number", self._brief(key))
        return float(value)  # type: ignore[arg-type]

    def _name(self, key: str) -> str:
        return f"{self.prefix}{key} ({self.where})"

    def _brief(self, key: str) -> str:
        return repr(self.get(key))[:80]
