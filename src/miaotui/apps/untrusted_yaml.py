"""Reading YAML files that people write by hand: within bounds, without code.

Owns the bounds on size, depth and aliases. Knows no meaning. Invariant: the result consists of lists, mappings,
texts, numbers, booleans and None, and took memory in proportion to its file.
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
    """Return the value of a YAML file: no tags, no aliases, at most `MAX_DEPTH` levels.

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
    """Refuse what could grow or nest without bound, before anything is built."""
    depth = 0
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.AliasEvent):
            raise RequestError(f"{path}, line {event.start_mark.line + 1}: aliases are not allowed")
        if isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            depth += 1
            if depth > MAX_DEPTH:
                raise RequestError(f"{path}: nested more than {MAX_DEPTH} levels deep")
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            depth -= 1
