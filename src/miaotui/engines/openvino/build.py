"""Opening a model with OpenVINO GenAI: from a GGUF file to a running loop.

Owns the conversion, which OpenVINO's own reader does once for each file, and where it is kept. Invariant: a converted
folder appears whole or not at all, under the digest of the file that it was made from.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

from miaotui.backends.options import EngineOptions
from miaotui.config import Settings
from miaotui.engine.remote.loop import RemoteLoop
from miaotui.engines.stepped import SteppedDispatcher
from miaotui.errors import RequestError, UnsupportedModelError
from miaotui.hub.digest import model_digest
from miaotui.libraries import need
from miaotui.runtime import open_remote_model

MODEL = "openvino_model.xml"
KV_TOKENS = 16_384
DEVICES = ("CPU", "GPU", "NPU")


def open_openvino(path: Path, options: EngineOptions, settings: Settings) -> RemoteLoop:
    """Open the GGUF file at ``path``; the device is that of ``MIAOTUI_OPENVINO_DEVICE``, a processor without.

    Raises `MissingLibraryError`, `RequestError` for options and devices that are not there, `UnsupportedModelError` for
    a file that OpenVINO cannot read.
    """
    genai = need("openvino_genai")
    for name, unset in (("format", None), ("kv", "f16")):
        if getattr(options, name) != unset:
            raise RequestError(f"OpenVINO has no {name} {getattr(options, name)!r} here: leave {name} out")
    device = _device()
    digest = model_digest(path)
    folder = _converted(path, digest, settings, genai)
    scheduler = genai.SchedulerConfig()
    scheduler.max_num_batched_tokens, scheduler.max_num_seqs = options.chunk_size, options.max_sequences
    scheduler.enable_prefix_caching = options.reuse_prefix
    scheduler.num_kv_blocks = max(-(-(options.kv_tokens or KV_TOKENS) // 32), 1)
    properties = {} if options.threads is None else {"INFERENCE_NUM_THREADS": str(options.threads)}

    def build() -> Any:
        return genai.ContinuousBatchingPipeline(str(folder), scheduler, device, properties)

    from miaotui.engines.openvino.engine import OpenVinoEngine  # noqa: PLC0415  (imports the library)

    remote, preparation = open_remote_model(path, digest, options.context)
    dispatcher = SteppedDispatcher("OpenVINO", lambda: OpenVinoEngine(build), options.max_sequences)
    loop = RemoteLoop(remote, preparation, dispatcher)
    dispatcher.loop = loop
    return loop


def _device() -> str:
    """Return the device that is asked for. Raises `RequestError` for one that OpenVINO does not see."""
    wanted = os.environ.get("MIAOTUI_OPENVINO_DEVICE", "CPU").upper()
    seen = need("openvino").Core().available_devices
    if wanted.partition(".")[0] not in DEVICES or wanted not in seen:
        raise RequestError(f"MIAOTUI_OPENVINO_DEVICE={wanted}: OpenVINO sees {', '.join(seen) or 'no device'} here")
    return wanted


def _converted(path: Path, digest: str, settings: Settings, genai: Any) -> Path:
    """Return the folder of a GGUF file's conversion; the first call makes it."""
    if path.suffix.lower() != ".gguf":
        raise UnsupportedModelError(f"OpenVINO reads GGUF files here, not {path.name}: choose one, or backend='cpu'")
    folder = settings.cache_dir / "openvino" / f"{digest[:32]}-{version('openvino-genai')}"
    if (folder / MODEL).exists():
        return folder
    part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    part.mkdir(parents=True, exist_ok=True)
    link = part / "model.gguf"
    try:
        link.symlink_to(path.resolve())  # the conversion is written beside the file that is read
        genai.LLMPipeline(str(link), "CPU", enable_save_ov_model=True)
        link.unlink()
        if not (part / MODEL).exists():
            raise UnsupportedModelError(f"OpenVINO made no model of {path.name}: choose another, or backend='cpu'")
        with contextlib.suppress(OSError):  # another process was faster
            os.replace(part, folder)
    except (RuntimeError, LookupError, ValueError, TypeError) as error:  # whatever its reader throws
        first = str(error).strip().splitlines()[-1:] or ["no reason"]
        raise UnsupportedModelError(f"OpenVINO cannot read {path.name}: {first[0]:.300}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder
