"""Installs the engines we are measured against, at pinned versions, into a folder of their own.

    python -m benchmarks.peers.install setup      # an environment with OpenVINO GenAI; llama.cpp compiled for this CPU
    python -m benchmarks.peers.install status     # what is there
    python -m benchmarks.peers.install setup --folder FOLDER --only llama.cpp --cmake GGML_NATIVE=OFF GGML_AVX_VNNI=ON

Owns the folder ``benchmarks/.peers`` (git-ignored). Knows nothing of measuring. A peer that cannot
be installed is reported in one line and left out; the others stay usable. llama.cpp is compiled
from the copy inside the llama-cpp-python source release with every instruction set of this
processor, since prebuilt wheels may lack the wide ones.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.places import PEERS

LLAMA_CPP_PYTHON = "0.3.36"
OPENVINO_GENAI = "2026.4.1.0"
QUANTISERS = ("llama-quantize", "llama-imatrix")
CMAKE_OPTIONS = {
    "CMAKE_BUILD_TYPE": "Release",
    "GGML_NATIVE": "ON",
    "BUILD_SHARED_LIBS": "ON",
    "LLAMA_OPENSSL": "OFF",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_SERVER": "ON",  # for benchmarks.promises.goodput
    "LLAMA_BUILD_APP": "OFF",
}


@dataclass(frozen=True)
class Peers:
    """Where the peers live, and CMake's options beside the usual ones."""

    folder: Path = PEERS
    options: tuple[str, ...] = ()  # NAME=VALUE

    @property
    def python(self) -> Path:
        """The interpreter that sees the peers' packages."""
        return self.folder / "python" / "bin" / "python"

    @property
    def models(self) -> Path:
        """The folder of the benchmark's model files."""
        return self.folder / "models"

    @property
    def source(self) -> Path:
        """llama-cpp-python's unpacked source release."""
        return self.folder / f"llama_cpp_python-{LLAMA_CPP_PYTHON}"

    def build(self, openmp: bool = True) -> Path:
        """The folder of llama.cpp's build, with OpenMP's threads (its default) or its own."""
        return self.folder / ("llama.cpp" if openmp else "llama.cpp-own-threads")

    def has_llama_cpp(self, openmp: bool = True) -> bool:
        """Whether llama.cpp has been built."""
        return self.python.exists() and (self.build(openmp) / "bin" / "libllama.so").exists()

    def has_llama_server(self) -> bool:
        """Whether llama.cpp's server has been built."""
        return (self.build() / "bin" / "llama-server").exists()

    def has_llama_quantize(self) -> bool:
        """Whether llama.cpp's quantiser and its tool for importance have been built."""
        return all((self.build() / "bin" / name).exists() for name in QUANTISERS)

    def has_openvino(self) -> bool:
        """Whether OpenVINO GenAI has been installed."""
        return any(self.folder.glob("python/lib/python*/site-packages/openvino_genai"))


def setup(peers: Peers, jobs: int, variants: bool, only: str | None = None) -> int:
    """Install what is missing, or ``only`` one peer; return the number of peers that could not be."""
    steps: dict[str, Callable[[], None]] = {"environment": partial(_environment, peers)}
    if not peers.has_openvino():
        steps["OpenVINO GenAI"] = partial(_pip, peers, "install", f"openvino-genai=={OPENVINO_GENAI}")
    for openmp in (True, False) if variants else (True,):
        complete = peers.has_llama_server() and peers.has_llama_quantize()
        if not peers.has_llama_cpp(openmp) or (openmp and not complete):
            name = "llama.cpp" if openmp else "llama.cpp with its own threads"
            steps[name] = partial(_llama_cpp, peers, openmp, jobs)
    failures = 0
    for name, step in steps.items():
        if only not in (None, name) and name != "environment":
            continue
        print(f"{name} ...", flush=True)
        try:
            step()
        except (OSError, subprocess.CalledProcessError, tarfile.TarError) as error:
            failures += 1
            print(f"{name}: left out, {error}", flush=True)
    return failures


def status(peers: Peers) -> str:
    """One line for each peer."""
    there = {
        f"llama.cpp (llama-cpp-python {LLAMA_CPP_PYTHON})": peers.has_llama_cpp(),
        "llama.cpp's server": peers.has_llama_server(),
        "llama.cpp's quantiser": peers.has_llama_quantize(),
        "llama.cpp with its own threads (a variant)": peers.has_llama_cpp(openmp=False),
        f"OpenVINO GenAI {OPENVINO_GENAI}": peers.has_openvino(),
    }
    return "\n".join(f"{name}: {'ready' if ready else 'missing'}" for name, ready in there.items())


def _environment(peers: Peers) -> None:
    if not peers.python.exists():
        _run([sys.executable, "-m", "venv", str(peers.folder / "python")])
    _pip(peers, *("install", "numpy", "typing_extensions", "scikit-build-core", "cmake", "ninja"))


def _llama_cpp(peers: Peers, openmp: bool, jobs: int) -> None:
    if not (shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")):
        raise OSError("no C++ compiler found; install g++ or clang and run this again")
    if not peers.source.exists():
        _fetch_source(peers)
    build = peers.build(openmp)
    options = {**CMAKE_OPTIONS, "GGML_OPENMP": "ON" if openmp else "OFF"}
    flags = [f"-D{name}={value}" for name, value in options.items()] + [f"-D{option}" for option in peers.options]
    tools = peers.python.parent
    vendored = str(peers.source / "vendor" / "llama.cpp")
    _run([str(tools / "cmake"), "-G", "Ninja", "-S", vendored, "-B", str(build), *flags], tools)
    tools_of_openmp = ["llama-bench", "llama-batched-bench", "llama-server", *QUANTISERS]  # for quantize.py the last
    targets = ["llama", *tools_of_openmp] if openmp else ["llama"]
    _run(["nice", "-n", "19", str(tools / "ninja"), "-C", str(build), f"-j{jobs}", *targets], tools)


def _fetch_source(peers: Peers) -> None:
    """Download the source release alone: no build, no dependencies."""
    _pip(
        peers,
        *("download", "--no-deps", "--no-binary", ":all:", "--no-build-isolation"),
        *("--dest", str(peers.folder), f"llama-cpp-python=={LLAMA_CPP_PYTHON}"),
    )
    with tarfile.open(peers.folder / f"llama_cpp_python-{LLAMA_CPP_PYTHON}.tar.gz") as archive:
        archive.extractall(peers.folder, filter="data")


def _pip(peers: Peers, *arguments: str) -> None:
    _run([str(peers.python), "-m", "pip", "--quiet", *arguments])


def _run(command: Sequence[str], path: Path | None = None) -> None:
    """Run ``command`` quietly, with ``path`` first among the places for programs."""
    environment = dict(os.environ)
    if path is not None:
        environment["PATH"] = f"{path}{os.pathsep}{environment['PATH']}"
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)


def main() -> None:
    """Install the peers, or say which are there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["setup", "status"])
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="compilers at once (default: one per core)")
    parser.add_argument("--variants", action="store_true", help="what benchmarks.peers.speed --variants needs besides")
    parser.add_argument("--only", choices=["llama.cpp", "OpenVINO GenAI"], help="the peer to install (default: all)")
    parser.add_argument("--cmake", nargs="+", default=[], metavar="NAME=VALUE", help="options of llama.cpp's build")
    parser.add_argument("--folder", type=Path, default=PEERS)
    args = parser.parse_args()
    peers = Peers(args.folder, tuple(args.cmake))
    failures = setup(peers, args.jobs, args.variants, args.only) if args.command == "setup" else 0
    print(status(peers))
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
