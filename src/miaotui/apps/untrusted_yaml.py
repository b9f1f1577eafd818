"""Reading YAML files that people write by hand: within bounds, without code.

Owns the bounds on size, depth and aliases. Knows no meaning. Invariants: the result consists of lists, mappings,
texts, numbers, booleans and None, and took memory in proportion to its file; a name stands once in its mapping.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from miaotui.errors import RequestError
from miaotui.libraries import need
from miaotui.retrieval.ingest.repair import decoded

MAX_DEPTH = 20


def read_text(path: Path, max_bytes: int, *, any_encoding: bool = False) -> str:
    """Return the text of a UTF-8 file, or with ``any_encoding`` of one whose encoding is found out.

    Raises `RequestError`.
    """
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
        text = decoded(data) if any_encoding else data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"cannot read {path}: {error}. Give a UTF-8 file") from error
    if len(data) > max_bytes:
        raise RequestError(f"{path} is larger than {max_bytes:,} bytes: give a smaller one")
    return text


def read_yaml(path: Path, max_bytes: int) -> Any:
    """Return the value of a YAML file: no tags, no aliases, no name twice, at most `MAX_DEPTH` levels.

    Raises `RequestError`, with the line where YAML names one.
    """
    yaml = need("yaml")
    text = read_text(path, max_bytes)
    try:
        _check_events(yaml, text, path)
        return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        place = getattr(error, "problem_mark", None)
        line = f", line {place.line + 1}" if place is not None else ""
        reason = getattr(error, "problem", None) or str(error)
        raise RequestError(f"{path}{line}: not YAML that can be read: {reason}") from None


def _check_events(yaml: Any, text: str, path: Path) -> None:
    """Refuse what could grow or nest without bound, and what YAML would drop, before anything is built."""
    depth = 0
    names: list[_Names | None] = [None]  # of each open mapping; None: a list
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.AliasEvent):
            raise RequestError(f"{path}, line {event.start_mark.line + 1}: aliases are not allowed")
        if isinstance(event, yaml.NodeEvent) and names[-1] is not None and not names[-1].takes(event):
            raise RequestError(f"{path}, line {event.start_mark.line + 1}: {event.value!r} stands there twice")
        if isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            names.append(_Names() if isinstance(event, yaml.MappingStartEvent) else None)
            depth += 1
            if depth > MAX_DEPTH:
                raise RequestError(f"{path}: nested more than {MAX_DEPTH} levels deep")
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            names.pop()
            depth -= 1


class _Names:
    """Names of one mapping, whose parts come as name, value, name, value."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._is_name = False

    def takes(self, event: Any) -> bool:
        """Return False for a name that the mapping has already."""
        self._is_name = not self._is_name
        name = getattr(event, "value", None)
        if not self._is_name or name is None:
            return True
        is_new = name not in self._known
        self._known.add(name)
        return is_new
