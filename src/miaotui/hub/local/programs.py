"""Programs that store models on this computer, where each keeps them, and the names by which its models are opened.

Owns the folders, from the variables that each program documents, and the prefixes of names: ``ollama:``, ``lmstudio:``,
``llamacpp:``, ``hf:``, ``ms:``. Opens no model and no connection. Invariant: files stay where they are, and no name
leads outside the folders listed here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from miaotui.errors import ModelError, ModelNotFoundError, UnsupportedModelError
from miaotui.hub.formats.untrusted_json import read_object
from miaotui.hub.local.ollama import DEFAULT_TAG, ollama_models
from miaotui.hub.local.stored import StoredModel, stored_ggufs, stored_repository
from miaotui.hub.sources import huggingface, modelscope

Environment = Mapping[str, str]
MAX_PATH = 4096  # characters


class StoringProgram(NamedTuple):
    """A program that stores models: its name, the prefix of its models' names, its folders, and what lies in one."""

    name: str
    prefix: str
    folders: Callable[[Environment], tuple[Path, ...]]
    models: Callable[[Path], Iterator[StoredModel]]


def stored_models(env: Environment | None = None) -> list[StoredModel]:
    """Return the models of all programs, each file once, in the order of `PROGRAMS`."""
    found: dict[Path, StoredModel] = {}
    for program in PROGRAMS:
        for model in _models(program, os.environ if env is None else env):
            found.setdefault(_real(model.path) if not model.problem else model.path, model)
    return list(found.values())


def find_stored(name: str, env: Environment | None = None) -> Path:
    """Return the file or folder that ``name`` (``ollama:qwen3:0.6b``) means.

    Raises `ModelNotFoundError` with the names that there are, `UnsupportedModelError` for one with a problem.
    """
    prefix, _, rest = name.partition(":")
    program = _BY_PREFIX[prefix.lower()]
    models = list(_models(program, os.environ if env is None else env))
    wanted = f"{program.prefix}:{rest}".lower()
    accepted = {wanted, f"{wanted}:{DEFAULT_TAG}"}
    for model in models:
        if model.name.lower() in accepted:
            if model.problem:
                raise UnsupportedModelError(f"{model.name} cannot be opened: {model.problem}")
            return model.path
    names = ", ".join(model.name for model in models[:20]) or f"none in {program.folders(os.environ)[0]}"
    raise ModelNotFoundError(f"{program.name} has stored no {rest[:200]!r}. Its models here: {names}")


def _models(program: StoringProgram, env: Environment) -> Iterator[StoredModel]:
    for folder in dict.fromkeys(program.folders(env)):
        if folder.is_dir():
            yield from program.models(folder)


def _real(path: Path) -> Path:
    try:
        return path.resolve()
    except OSError:
        return path


def _home(env: Environment) -> Path:
    return Path(env.get("HOME") or env.get("USERPROFILE") or Path.home())


def _ollama_folders(env: Environment) -> tuple[Path, ...]:
    if named := env.get("OLLAMA_MODELS"):
        return (Path(named).expanduser(),)
    own = _home(env) / ".ollama" / "models"
    service = Path("/usr/share/ollama/.ollama/models")  # of its installer's service on Linux
    return (own, service) if sys.platform == "linux" else (own,)


def _lm_studio_folders(env: Environment) -> tuple[Path, ...]:
    """Return the folder that its settings choose, and those of its homes; a file in the home folder may name one."""
    home = _home(env)
    homes = [home / ".lmstudio", home / ".cache" / "lm-studio"]
    if named := _absolute(_first_line(home / ".lmstudio-home-pointer")):
        homes.insert(0, named)
    chosen = (_chosen_folder(each / "settings.json") for each in homes)
    return (*filter(None, chosen), *(each / "models" for each in homes))


def _first_line(path: Path) -> str:
    """Return the first line of a small text file; empty if there is none."""
    try:
        with path.open(encoding="utf-8") as file:
            return file.readline(MAX_PATH).strip()
    except (OSError, ValueError):
        return ""


def _chosen_folder(path: Path) -> Path | None:
    """Return the folder for models in LM Studio's settings; None if they name none."""
    try:
        return _absolute(read_object(path).get("downloadsFolder"))
    except ModelError:
        return None


def _absolute(named: object) -> Path | None:
    """Return the path that another program's file names; None for what is no whole path."""
    path = Path(named) if isinstance(named, str) and "\0" not in named else Path()
    return path if path.is_absolute() else None


def _llama_cpp_folders(env: Environment) -> tuple[Path, ...]:
    if named := env.get("LLAMA_CACHE"):
        return (Path(named).expanduser(),)
    if sys.platform == "darwin":
        return (_home(env) / "Library" / "Caches" / "llama.cpp",)
    if sys.platform == "win32":
        return (Path(env.get("LOCALAPPDATA") or _home(env) / "AppData" / "Local") / "llama.cpp",)
    return (Path(env.get("XDG_CACHE_HOME") or _home(env) / ".cache") / "llama.cpp",)


def _hugging_face_models(cache: Path) -> Iterator[StoredModel]:
    for folder in sorted(cache.glob("models--*--*")):
        repo = folder.name.removeprefix("models--").replace("--", "/", 1)
        snapshot = huggingface.snapshot_of(folder)
        if snapshot is None or not snapshot.is_dir():
            snapshot = max((p for p in folder.glob("snapshots/*") if p.is_dir()), key=_changed, default=None)
        if snapshot is not None:
            yield from stored_repository(snapshot, repo, "Hugging Face", "hf")


def _model_scope_models(cache: Path) -> Iterator[StoredModel]:
    for repo, folder in modelscope.cached_repositories(cache):
        yield from stored_repository(folder, repo, "ModelScope", "ms")


def _changed(path: Path) -> float:
    return path.stat().st_mtime


PROGRAMS = (
    StoringProgram("Ollama", "ollama", _ollama_folders, ollama_models),
    StoringProgram(
        "LM Studio", "lmstudio", _lm_studio_folders, lambda folder: stored_ggufs(folder, "LM Studio", "lmstudio")
    ),
    StoringProgram(
        "llama.cpp", "llamacpp", _llama_cpp_folders, lambda folder: stored_ggufs(folder, "llama.cpp", "llamacpp")
    ),
    StoringProgram("Hugging Face", "hf", lambda env: (huggingface.cache_folder(env),), _hugging_face_models),
    StoringProgram("ModelScope", "ms", lambda env: (modelscope.cache_folder(env),), _model_scope_models),
)
_BY_PREFIX = {program.prefix: program for program in PROGRAMS}
