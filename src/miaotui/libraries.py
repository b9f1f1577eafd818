"""Libraries that are imported when they are first used, and the error where one is missing.

Owns which extra brings a library, and for which systems a library has no build. Knows nothing of what the
libraries do. Invariant: a missing library ends in one `MissingLibraryError` that names the remedy.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

from miaotui.errors import MissingLibraryError

EXTRAS = {
    "av": "speech",
    "cryptography": "encryption",
    "hls4ml": "fpga",
    "jax": "jax",
    "opencc": "speech",
    "openvino": "openvino",
    "openvino_genai": "openvino",
    "python_multipart": "speech",
    "websockets": "speech",
    "pandas": "cluster",
    "pyarrow": "cluster",
    "ray": "cluster",
    "rdflib": "graph",
    "rouge_score": "eval",
    "sacrebleu": "eval",
    "scipy": "recommend",
    "sklearn": "apps",
    "symspellpy": "spelling",
    "opentelemetry": "otel",
    "torch": "optimize",
    "vllm": "vllm",
}
COMPILERS = {"numba", "llvmlite"}
NOT_FOR_WINDOWS_ON_ARM = {"tantivy", "rjieba"}


def need(module: str) -> ModuleType:
    """Import a module and return it. Raises `MissingLibraryError` if it cannot be imported."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise missing(module) from error


def missing(module: str) -> MissingLibraryError:
    """Return the error for a library that cannot be imported, with the remedy on this system."""
    import platform  # noqa: PLC0415  (only where something is wrong)

    library = module.partition(".")[0]
    remedy = remedy_for(library, sys.platform, platform.machine(), sys.version_info[:2])
    return MissingLibraryError(f"the library {library} is not installed here. {remedy}")


def remedy_for(library: str, system: str, machine: str, version: tuple[int, ...]) -> str:
    """Return what to do on a system (`sys.platform`), a machine (`platform.machine`) and a version of Python."""
    if library in EXTRAS:
        return f"Run: pip install 'miaotui[{EXTRAS[library]}]'"
    on_intel_mac = system == "darwin" and machine == "x86_64"
    on_windows_arm = system == "win32" and machine == "ARM64"
    if library in COMPILERS and on_intel_mac and version >= (3, 14):
        return "It has no build for this Python on Macs with Intel processors: use Python 3.10 to 3.13"
    if library in COMPILERS and on_windows_arm and version < (3, 12):
        return "It has no build for this Python on Windows for ARM: use Python 3.12 or later"
    if library in NOT_FOR_WINDOWS_ON_ARM and on_windows_arm:
        return "It has no build for Windows on ARM: use Python for x86-64, which runs there too"
    return "Run: pip install miaotui"
