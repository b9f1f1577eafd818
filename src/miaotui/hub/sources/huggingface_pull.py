"""Downloads models from Hugging Face through ``huggingface_hub``, into the cache that other
programs share.

Owns the talk with the library, whose progress hooks and error types vary between versions 0.34 and
2. It does not choose files (`huggingface` does). Invariant: only files chosen by name from an allow
list are fetched, and large ones are kept only with the SHA-256 that the repository states.
"""

from __future__ import annotations

import inspect
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from miaotui.config import FULL_DISK, Settings, cache_error, make_folder
from miaotui.errors import DownloadError, MiaotuiError, ModelNotFoundError
from miaotui.hub.files import matches, remove, require_room
from miaotui.hub.sources.huggingface import DEFAULT_REVISION, cache_folder, repository_folder
from miaotui.hub.sources.repository import HubId, choose_files, located
from miaotui.types import Progress

_LIBRARY = "miaotui"


def pull_repository(hub_id: HubId, settings: Settings, progress: Progress | None = None) -> Path:
    """Download the needed files of ``hub_id`` into the shared cache; return the folder, or the GGUF
    file.

    Raises `ModelNotFoundError`, `UnsupportedModelError`, `DownloadError` or `CacheError`.
    """
    if settings.offline:
        raise DownloadError(
            f"{hub_id} is not in the Hugging Face cache, and miaotui is offline. "
            "Unset MIAOTUI_OFFLINE (and HF_HUB_OFFLINE) to allow downloads"
        )
    cache = make_folder(cache_folder())
    with _explained(hub_id, cache):
        return _pull(hub_id, cache, progress or (lambda _label, _done, _total: None))


@dataclass(frozen=True)
class _File:
    name: str
    size_bytes: int
    sha256: str | None  # stated for large files only


def _pull(hub_id: HubId, cache: Path, report: Progress) -> Path:
    commit, files = _list_files(hub_id)
    chosen = choose_files(files, hub_id)
    snapshot = repository_folder(cache, hub_id.repo) / "snapshots" / commit
    absent = [name for name in chosen if not (snapshot / name).exists()]
    require_room(cache, sum(files[name].size_bytes for name in absent))
    total, done = sum(files[name].size_bytes for name in chosen), 0
    for name in chosen:
        base = done

        def shifted(_label: str, bytes_done: int, _total: int | None, base: int = base) -> None:
            report(f"downloading {hub_id.repo}", base + bytes_done, total)

        path = _fetch(hub_id, name, cache, shifted)
        if path != snapshot / name:
            raise DownloadError(f"{hub_id.repo} changed during the download. Pull it again")
        if name in absent:
            _verify(hub_id, path, files[name])
        done += files[name].size_bytes
        report(f"downloading {hub_id.repo}", done, total)
    return located(snapshot, chosen)


def _list_files(hub_id: HubId) -> tuple[str, dict[str, _File]]:
    """Return (commit, the repository's files by name)."""
    from huggingface_hub import HfApi  # noqa: PLC0415 - costs 0.2 s, needed for downloads only

    api = HfApi(endpoint=_endpoint(), library_name=_LIBRARY)
    info = api.model_info(hub_id.repo, revision=hub_id.revision or DEFAULT_REVISION, files_metadata=True)
    if not info.sha:
        raise DownloadError(f"the server names no commit of {hub_id}. Try again later")
    return info.sha, {
        file.rfilename: _File(file.rfilename, file.size or 0, file.lfs.sha256 if file.lfs else None)
        for file in info.siblings or ()
    }


def _fetch(hub_id: HubId, name: str, cache: Path, report: Progress) -> Path:
    from huggingface_hub import hf_hub_download  # noqa: PLC0415 - as above

    options: dict[str, Any] = {}
    if "tqdm_class" in inspect.signature(hf_hub_download).parameters:
        options["tqdm_class"] = _reporting_bar(report)  # older versions draw bars of their own
    path = hf_hub_download(
        hub_id.repo,
        name,
        revision=hub_id.revision or DEFAULT_REVISION,
        cache_dir=cache,
        endpoint=_endpoint(),
        library_name=_LIBRARY,
        **options,
    )
    return Path(path)


def _reporting_bar(report: Progress) -> type[Any]:
    """Return a progress bar for the library that draws nothing and reports instead."""
    tqdm: Any = import_module("tqdm").tqdm  # comes with huggingface_hub; it has no types

    def start(bar: Any, *args: Any, **kwargs: Any) -> None:
        kwargs.pop("name", None)
        tqdm.__init__(bar, *args, **{**kwargs, "disable": False, "file": io.StringIO()})

    def display(bar: Any, *_args: Any, **_kwargs: Any) -> bool:
        report("", int(bar.n), None)
        return True

    return type("ReportingBar", (tqdm,), {"__init__": start, "display": display})


def _verify(hub_id: HubId, path: Path, file: _File) -> None:
    """Remove a file that is not what the repository states, and say so."""
    if file.sha256 is None or matches(path, file.size_bytes, file.sha256):
        return
    remove(path.resolve())  # the content; ``path`` is a link to it where links are possible
    remove(path)
    raise DownloadError(f"{file.name} of {hub_id.repo} arrived damaged. Pull it again")


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


@contextmanager
def _explained(hub_id: HubId, cache: Path) -> Iterator[None]:
    """Turn the library's errors into ours.

    All of `Exception` is caught, because the library passes on the errors of its HTTP library,
    which is a different one in each of its major versions.
    """
    from huggingface_hub import errors  # noqa: PLC0415 - as above

    try:
        yield
    except MiaotuiError:
        raise
    except errors.GatedRepoError as error:
        raise DownloadError(
            f"{hub_id.repo} is open only to those who accepted its terms. Accept them "
            f"at https://huggingface.co/{hub_id.repo}, then set HF_TOKEN or use `hf auth login`"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelNotFoundError(
            f"there is no Hugging Face repository {hub_id.repo}, or it is private. "
            "Check the spelling; for a private one log in with `hf auth login` or set HF_TOKEN"
        ) from error
    except errors.LocalEntryNotFoundError as error:  # neither here nor reachable
        raise _failed(hub_id, error.__cause__ or error) from error
    except (errors.RevisionNotFoundError, errors.EntryNotFoundError) as error:
        raise ModelNotFoundError(
            f"Hugging Face has no {hub_id}: {_first_line(error)}. Check revision and file name"
        ) from error
    except Exception as error:
        if isinstance(error, OSError) and (error.filename or error.errno in FULL_DISK):
            raise cache_error(error, cache) from error
        raise _failed(hub_id, error) from error


def _failed(hub_id: HubId, error: BaseException) -> DownloadError:
    return DownloadError(
        f"cannot download {hub_id} from Hugging Face: {_first_line(error)}. "
        "Check the network (HTTPS_PROXY, HF_ENDPOINT) and try again; what has come is kept"
    )


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0]
