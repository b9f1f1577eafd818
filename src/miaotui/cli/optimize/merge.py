"""``miaotui merge``: one model from several.

Owns the words of the command line and the recipe's file. Knows no method (`optimize.merging`). Invariant: an option
stands in the recipe or on the command line, not with two values.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from miaotui.cli.options.learning import curve
from miaotui.errors import RequestError

NUMBERS = ("method", "base", "weights", "densities", "t", "scale", "seed", "dtype", "tokenizer")
KNOWN = ("models", "out", "normalize", *NUMBERS)
MAX_RECIPE_BYTES = 1 << 16


def merge(parsed: argparse.Namespace) -> int:
    """Write the merged model, print its place and return the exit status."""
    from miaotui.cli.output.progress import ProgressBars
    from miaotui.config import Settings
    from miaotui.optimize.merging.merge import merge as merge_models
    from miaotui.optimize.merging.recipe import MergeRecipe, require_used

    given = _given(parsed)
    out = given.pop("out", None)
    if out is None:
        raise RequestError("say where the merged model shall lie: miaotui merge MODEL MODEL --out PLACE")
    require_used(given.get("method", "linear"), given)
    recipe = MergeRecipe(given.pop("method", "linear"), tuple(given.pop("models", ())), **given)
    with ProgressBars() as progress:
        origin = merge_models(recipe, Path(out).expanduser(), Settings.from_env(), progress)
    if getattr(parsed, "json", False):
        print(json.dumps(asdict(origin), indent=1, ensure_ascii=False))
    else:
        show_origin(asdict(origin))
        print(out)
    return 0


def show_origin(origin: Mapping[str, Any]) -> None:
    """Print from which files a model was made."""
    from miaotui.config import format_size

    file = origin["file"]
    print(f"{file['name']}, {format_size(file['bytes'])}, sha256 {file['sha256'][:16]}: {origin['made_by']}")
    for source in origin["sources"]:
        print(f"- {source['name']}, {format_size(source['bytes'])}, sha256 {source['sha256'][:16]}")


def _given(parsed: argparse.Namespace) -> dict[str, Any]:
    given = {name: getattr(parsed, name) for name in ("out", *NUMBERS) if hasattr(parsed, name)}
    if parsed.words:
        given["models"] = list(parsed.words)
    if getattr(parsed, "no_normalize", False):
        given["normalize"] = False
    if not hasattr(parsed, "recipe"):
        return given
    path = Path(parsed.recipe).expanduser()
    recipe = _recipe(path)
    for name in recipe.keys() & given.keys():
        if recipe[name] != given[name]:
            raise RequestError(f"{name} is {recipe[name]!r} in {path} and {given[name]!r} as an option: give one")
    return recipe | given


def _recipe(path: Path) -> dict[str, Any]:
    from miaotui.apps.untrusted_yaml import read_yaml

    values = read_yaml(path, MAX_RECIPE_BYTES)
    if not isinstance(values, dict) or not values:
        raise RequestError(f"{path} is no recipe: expected options by name, such as 'method: slerp'")
    unknown = [key for key in values if key not in KNOWN]
    if unknown:
        raise RequestError(f"{path}: unknown option {unknown[0]!r}; a recipe has {', '.join(KNOWN)}")
    models = values.get("models")
    if models is not None and not (isinstance(models, list) and all(isinstance(name, str) for name in models)):
        raise RequestError(f"{path}: models must be a list of names or paths, not {models!r:.80}")
    found = {name: value for name, value in values.items() if name not in ("weights", "densities", "t")}
    for name in ("densities", "t"):
        if name in values:
            found[name] = _curve(path, name, values[name])
    if "weights" in values:
        given = values["weights"] if isinstance(values["weights"], list) else [values["weights"]]
        found["weights"] = tuple(_curve(path, "weights", each) for each in given)
    return _typed(path, found)


def _typed(path: Path, found: dict[str, Any]) -> dict[str, Any]:
    kinds = {"normalize": bool, "seed": int, "scale": (int, float)}
    for name, value in found.items():
        kind = kinds.get(name, list if name == "models" else tuple if name in ("weights", "densities", "t") else str)
        if not isinstance(value, kind) or (isinstance(value, bool) and name != "normalize"):  # type: ignore[arg-type]
            raise RequestError(f"{path}: {name} cannot be {value!r:.80}")
    return found


def _curve(path: Path, name: str, value: object) -> tuple[float, ...]:
    try:
        numbers = value if isinstance(value, list) else [value]
        return tuple(x for number in numbers for x in curve(str(number)))
    except argparse.ArgumentTypeError as error:
        raise RequestError(f"{path}: {name} {error}") from None
