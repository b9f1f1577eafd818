"""``miaotui optimize``: a smaller file of a model, within a target, with its report card.

Owns the words of the command line and the recipe's file. Knows no method (`optimize`). Invariant: an option stands in
the recipe or on the command line, not with two values.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miaotui.cli.optimize.card import show_card
from miaotui.cli.options.optimize import optimize_options
from miaotui.errors import RequestError

if TYPE_CHECKING:
    from miaotui.optimize.card import ReportCard

TARGET = ("size", "max_kl", "tokens_per_s", "deadline", "prompt", "answer", "kv")
WAY = ("types", "round_all", "calibration", "test", "whole", "out")
ENCODER = ("size", "calibration", "test", "out")
FLAGS = ("round_all", "whole")
LEFT_OUT = ("layers", "kv_heads", "ffn", "heal", "mask")
MAX_RECIPE_BYTES = 1 << 16


def optimize(parsed: argparse.Namespace) -> int:
    """Make the file, or print the plan; return the exit status."""
    from miaotui.bench.html.page import write_page
    from miaotui.cli.bench.bench import require_place
    from miaotui.cli.output.progress import ProgressBars
    from miaotui.config import Settings
    from miaotui.hub.resolve import resolve
    from miaotui.model.encoder.opened import is_encoder
    from miaotui.optimize.encoders.quantize import EncoderOptimization
    from miaotui.optimize.folder_copy import as_gguf
    from miaotui.optimize.front import front_page
    from miaotui.optimize.optimizer import Optimization, OptimizeOptions, require_inputs
    from miaotui.optimize.plan import OptimizeTarget, kinds_named
    from miaotui.optimize.pruning.prune import Pruning
    from miaotui.optimize.pruning.search import ShapeSearch
    from miaotui.optimize.speed import measured_speed

    given = _given(parsed)
    html = getattr(parsed, "html", None)
    if html is not None:
        require_place(Path(html))
    wishes = {
        {"size": "size_bytes", "deadline": "deadline_s"}.get(name, name): given[name]
        for name in TARGET
        if name in given
    }
    pruning = _pruning(given)
    types = kinds_named([name for name in given.get("types", "").split(",") if name])
    calibration, test = (_file(given.get(name)) for name in ("calibration", "test"))
    options = OptimizeOptions(calibration, test, kinds=types, keep=not given.get("round_all", False))
    with ProgressBars() as progress:
        model, settings = resolve(parsed.words[0], progress=progress), Settings.from_env()
        encoder = is_encoder(model)
        if encoder:
            _require_encoder_wishes(given, parsed)
        path = as_gguf(model, settings, progress)
        stem = model.name if model.is_dir() else model.stem
        out = Path(given["out"]).expanduser() if "out" in given else model.with_name(f"{stem}-optimized.gguf")
        if encoder:
            assert calibration is not None, "required of encoders"
            card = EncoderOptimization(path, out, given["size"], calibration, test, progress).run()
            return _shown(parsed, card, out)
        if pruning is not None and not wishes.keys() - {"prompt", "answer", "kv"}:
            wishes["size_bytes"] = path.stat().st_size - 1
        target, plan = OptimizeTarget(**wishes), getattr(parsed, "plan", False)
        if not plan:
            require_inputs(path, out, target, options)  # before the machine is measured
        job = Optimization(path, out, target, _rates(), options, settings, progress)
        job.measure = partial(measured_speed, kv=target.kv)
        if plan:
            print(json.dumps(job.plan(), indent=1))
            return 0
        if pruning is not None:
            card = Pruning(job, pruning).run()
        else:
            card = job.run() if given.get("whole") else ShapeSearch(job).run()
    if html is not None:
        write_page(Path(html), front_page(card))
    return _shown(parsed, card, out)


def _shown(parsed: argparse.Namespace, card: ReportCard, out: Path) -> int:
    if getattr(parsed, "json", False):
        print(json.dumps(asdict(card), indent=1, ensure_ascii=False))
    else:
        show_card(card)
        print(out)
    return 0


def _require_encoder_wishes(given: Mapping[str, Any], parsed: argparse.Namespace) -> None:
    """Raise `RequestError` for wishes that an encoder cannot be given."""
    others = [name for name in given if name not in ENCODER]
    others += [name for name in ("plan", "html") if getattr(parsed, name, False)]
    if others:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in ENCODER)
        raise RequestError(f"--{others[0].replace('_', '-')} is about models that write; an encoder takes {names}")
    for name in ("size", "calibration"):
        if name not in given:
            raise RequestError(f"an encoder writes no texts of its own, and has one target: give it --{name}")


def _pruning(given: Mapping[str, Any]) -> Any:
    """Return what is to be left out; None: nothing. Raises `RequestError` for wishes that contradict each other."""
    from miaotui.optimize.distillation.recipe import DistilRecipe
    from miaotui.optimize.pruning.prune import PruneOptions

    wanted = {name: given[name] for name in LEFT_OUT if name in given}
    if not wanted:
        return None
    if given.get("whole"):
        raise RequestError(f"--whole leaves nothing out, and --{min(wanted).replace('_', '-')} does: give one of them")
    if "mask" in wanted and len(wanted) > 1:
        raise RequestError("--mask is measured alone: leave layers, heads, channels and healing out")
    if wanted.keys() == {"heal"}:
        raise RequestError("--heal follows pruning: give --layers, --kv-heads or --ffn, or use miaotui distill")
    tokens = wanted.pop("heal", 0)
    return PruneOptions(**wanted, heal=DistilRecipe(tokens=tokens) if tokens else None)


def _file(name: str | None) -> Path | None:
    return None if name is None else Path(name).expanduser()


def _rates() -> Any:
    """Return this machine's rates, measured now if they are not known."""
    from miaotui.cli.advice.machine_speeds import keep_speeds, known_speeds
    from miaotui.cli.doctor import measure
    from miaotui.config import Settings
    from miaotui.kernels.platform.cpu import probe
    from miaotui.optimize.cost import MachineRates

    cpu, settings = probe(), Settings.from_env()
    speeds = known_speeds(cpu, settings)
    if speeds is None:
        speeds = measure(cpu.team_size)[-1]
        keep_speeds(speeds, cpu, settings)
    return MachineRates(speeds.read_gb_per_s, speeds.int8_gmac_per_s)


def _given(parsed: argparse.Namespace) -> Mapping[str, Any]:
    """Return the options that were given, on the command line or in the recipe. Raises `RequestError`."""
    given = {name: getattr(parsed, name) for name in (*TARGET, *WAY, *LEFT_OUT) if hasattr(parsed, name)}
    if not hasattr(parsed, "recipe"):
        return given
    recipe = _recipe(Path(parsed.recipe).expanduser())
    for name in recipe.keys() & given.keys():
        if recipe[name] != given[name]:
            raise RequestError(
                f"{name} is {recipe[name]} in the recipe and {given[name]} on the command line: give one"
            )
    return recipe | given


def _recipe(path: Path) -> dict[str, Any]:
    """Read a recipe; its values are parsed as those of the command line. Raises `RequestError`."""
    from miaotui.apps.untrusted_yaml import read_yaml

    values = read_yaml(path, MAX_RECIPE_BYTES)
    if not isinstance(values, dict) or not values:
        raise RequestError(f"{path} is no recipe: expected options by name, such as 'size: 80MB'")
    words: list[str] = []
    seen: set[str] = set()
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name in seen:
            raise RequestError(f"{path}: {name} stands there twice, with - and with _: give one")
        seen.add(name)
        if name not in (*TARGET, *WAY, *LEFT_OUT):
            raise RequestError(f"{path}: unknown option {key!r}; a recipe has {', '.join((*TARGET, *WAY, *LEFT_OUT))}")
        if name in FLAGS:
            if not isinstance(value, bool):
                raise RequestError(f"{path}: {key} must be true or false, not {value!r}")
            words += [f"--{name.replace('_', '-')}"] if value else []
            continue
        if not isinstance(value, str | int | float) or isinstance(value, bool):
            raise RequestError(f"{path}: {key} must be one value, not {value!r}")
        words += [f"--{name.replace('_', '-')}", str(value)]
    return _parsed(words, path)


class _Raising(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise RequestError(message)


def _parsed(words: list[str], path: Path) -> dict[str, Any]:
    parser = _Raising(allow_abbrev=False, add_help=False)
    optimize_options(parser)
    try:
        return vars(parser.parse_args(words))
    except RequestError as error:
        raise RequestError(f"{path}: {error}") from error
