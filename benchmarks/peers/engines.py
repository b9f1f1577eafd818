"""Start of each engine under test: command, environment, model path.

Owns the list of subjects and their variants; knows nothing of workloads. A peer counts with the
best of its variants, each chosen by trying them all (`benchmarks.peers.speed --variants`).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.peers.install import Peers
from benchmarks.places import SUBJECTS

OURS = "miaotui"
OURS_AVX2 = "miaotui, AVX2"
LLAMA_CPP = "llama.cpp"
OPENVINO = "OpenVINO"
NAMES = [OURS, OURS_AVX2, LLAMA_CPP, OPENVINO]


@dataclass(frozen=True)
class Engine:
    """One way to run one engine."""

    name: str  # rows of the report; variants share their engine's name
    variant: str
    command: tuple[str, ...]  # without the model
    environment: Mapping[str, str] = field(default_factory=dict)
    converted: bool = False  # reads OpenVINO IR instead of the GGUF file

    @property
    def label(self) -> str:
        """Engine and variant."""
        return f"{self.name} ({self.variant})" if self.variant else self.name

    def model(self, gguf: Path) -> Path:
        """What this engine reads for the model in ``gguf``."""
        return gguf.with_suffix(".openvino") if self.converted else gguf


def ours(threads: int) -> list[Engine]:
    """This package, with every instruction set of the processor and restricted to AVX2."""
    command = (sys.executable, str(SUBJECTS / "run_miaotui.py"), "--threads", str(threads))
    return [Engine(OURS, "", command), Engine(OURS_AVX2, "", command, {"MIAOTUI_ISA": "avx2"})]


def llama_cpp(peers: Peers, threads: int, variants: bool) -> list[Engine]:
    """llama.cpp with flash attention and repacked weights; variants: neither, its own threads."""
    choices: list[tuple[str, bool, tuple[str, ...]]] = [("", True, ())]
    if variants:
        choices += [
            ("own threads", False, ()),
            ("no flash attention", True, ("--flash", "0")),
            ("no repacking", True, ("--repack", "0")),
        ]
    command = (str(peers.python), str(SUBJECTS / "run_llama_cpp.py"), "--threads", str(threads))
    found = []
    for variant, openmp, options in choices:
        if peers.has_llama_cpp(openmp):
            environment = {
                "LLAMA_CPP_BINDINGS": str(peers.source / "llama_cpp"),
                "LLAMA_CPP_LIB_PATH": str(peers.build(openmp) / "bin"),
            }
            found.append(Engine(LLAMA_CPP, variant, (*command, *options), environment))
    return found


def openvino(peers: Peers, threads: int, variants: bool) -> list[Engine]:
    """OpenVINO GenAI; as variants other precisions of arithmetic and of the KV cache."""
    if not peers.has_openvino():
        return []
    choices: list[tuple[str, tuple[str, ...]]] = [("", ())]
    if variants:
        choices += [
            ("bf16", ("--property", "INFERENCE_PRECISION_HINT=bf16")),
            ("f32", ("--property", "INFERENCE_PRECISION_HINT=f32")),
            ("KV f16", ("--property", "KV_CACHE_PRECISION=f16")),
            ("steps of 256 tokens", ("--batch-tokens", "256")),
        ]
    command = (str(peers.python), str(SUBJECTS / "run_openvino.py"), "--threads", str(threads))
    return [Engine(OPENVINO, name, (*command, *options), converted=True) for name, options in choices]


def convert(peers: Peers, gguf: Path) -> Path:
    """Make OpenVINO IR of a GGUF file, once; its own reader keeps the 4-bit weights as they are."""
    target = gguf.with_suffix(".openvino")
    if not (target / "openvino_model.xml").exists():
        command = [str(peers.python), str(SUBJECTS / "convert_openvino.py"), str(gguf), str(target)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=dict(os.environ))
    return target
