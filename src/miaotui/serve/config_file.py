"""The server's configuration file: the options of ``miaotui serve``, in TOML.

Owns the reading of the file and the names in it: every option by its long name, with dashes or
underscores, and ``models``, a list. Knows no option's meaning: values go through the same checks as
on the command line. Invariant: an unknown name fails and names the nearest known one.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from miaotui.errors import RequestError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MODELS = "models"
MAX_BYTES = 1 << 20
_PLAIN = (str, int, float)


def read_config(path: Path, flags: Iterable[str], others: Iterable[str]) -> list[str]:
    """Return the file as words of a command line: options first, then the models.

    ``flags`` are the options that take no value, ``others`` those that take one or, as a list,
    several. Raises `RequestError` naming the file and what in it is wrong.
    """
    words: list[str] = []
    models: list[str] = []
    known = {*flags, *others, MODELS}
    for name, value in _parsed(path).items():
        option = name.replace("_", "-")
        if option not in known:
            near = difflib.get_close_matches(option, known, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise RequestError(f"{path}: unknown setting {name!r}{hint}")
        values = value if isinstance(value, list) else [value]
        if option in flags:
            if not isinstance(value, bool):
                raise RequestError(f"{path}: {name} must be true or false, not {value!r}")
            words += [f"--{option}"] if value else []
        elif not all(isinstance(one, _PLAIN) and not isinstance(one, bool) for one in values):
            raise RequestError(f"{path}: {name} must be a text or a number, not {value!r}")
        elif option == MODELS:
            models += map(str, values)
        else:
            words += [f"--{option}={one}" for one in values]
    return [*words, "--", *models]


def _parsed(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise RequestError(f"{path} is larger than {MAX_BYTES:,} bytes: no configuration file")
        values: dict[str, Any] = tomllib.loads(content.decode("utf-8"))
    except OSError as error:
        raise RequestError(f"cannot read the configuration {path}: {error.strerror}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise RequestError(f"{path} is not TOML: {error}") from error
    return values
