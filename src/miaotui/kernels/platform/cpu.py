"""The processor: its instruction set and the number of threads to use.

Owns the choice of instruction set (the best the host has, or the one named by ``MIAOTUI_ISA``) and the number of
threads to start. It knows no kernel and imports no Numba; the compiler asks here first. Feature names are LLVM's.
Every host has `Isa.PLAIN`, so a probe fails only when ``MIAOTUI_ISA`` asks for an instruction set that the host
lacks.
"""

from __future__ import annotations

import functools
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum

from miaotui.config import memory_bound
from miaotui.errors import UnsupportedCpuError
from miaotui.kernels.platform.cgroup import CgroupLimits, read_limits
from miaotui.kernels.platform.host import Caches, Host, read_host, sysctl

ISA_VARIABLE = "MIAOTUI_ISA"


class Isa(Enum):
    """Instruction set for which the kernels have a lowering. The values are those that ``MIAOTUI_ISA`` takes."""

    AVX512_VNNI = "avx512vnni"
    AVX_VNNI = "avxvnni"
    AVX2 = "avx2"
    NEON_DOTPROD = "neon"
    PLAIN = "plain"  # LLVM's own vectors, lowered by LLVM for whatever there is


@dataclass(frozen=True)
class _Target:
    """Features that an instruction set needs, and the LLVM processor that has them and nothing better."""

    isa: Isa
    architecture: str
    needs: frozenset[str]
    llvm_cpu: str


_AVX2 = frozenset({"avx2", "fma", "f16c"})
_AVX512 = frozenset({"avx512f", "avx512bw", "avx512vl", "avx512vnni", "f16c", "fma"})
_TARGETS = (  # best first
    _Target(Isa.AVX512_VNNI, "x86_64", _AVX512, "icelake-server"),
    _Target(Isa.AVX_VNNI, "x86_64", _AVX2 | {"avxvnni"}, "alderlake"),
    _Target(Isa.AVX2, "x86_64", _AVX2, "haswell"),
    _Target(Isa.NEON_DOTPROD, "aarch64", frozenset({"dotprod"}), "neoverse-n1"),
    _Target(Isa.PLAIN, "x86_64", frozenset(), "x86-64"),
)


@dataclass(frozen=True)
class Cpu:
    """This processor, within the limits of this process."""

    model_name: str
    architecture: str  # "x86_64", "aarch64", or the platform's own name for anything else
    features: frozenset[str]  # LLVM's names
    isas: tuple[Isa, ...]  # all that run here, best first
    isa: Isa  # the one to compile for
    cores: int  # usable logical processors: affinity and cgroup quota, at least 1
    physical_cores: int  # distinct cores among the allowed ones
    allowed_cpus: int  # by affinity alone
    cpu_quota: float | None  # by cgroup alone, in processors; None: unlimited
    caches: Caches
    memory_bytes: int | None  # physical memory, the cgroup's limit or MIAOTUI_MEMORY_GB, whichever is least

    @property
    def team_size(self) -> int:
        """Return how many threads to start, within the quota.

        One per physical core: SMT siblings share its vector units, so a second thread adds nothing.
        """
        return min(self.cores, self.physical_cores)


def probe() -> Cpu:
    """Return the facts about this machine, computed once for each value of ``MIAOTUI_ISA`` and ``MIAOTUI_MEMORY_GB``.

    Raises `UnsupportedCpuError` if ``MIAOTUI_ISA`` names an instruction set that is unknown or missing here, and
    `RequestError` for a memory that is no number.
    """
    return _probe(os.environ.get(ISA_VARIABLE, ""), memory_bound())


def llvm_cpu_name(isa: Isa, cpu: Cpu | None = None) -> str | None:
    """Return the LLVM processor name that compiles for `isa` and no more; None: the host's own.

    `cpu` defaults to `probe()`; it says what the host's own instruction set and architecture are.
    """
    cpu = cpu or probe()
    if isa is cpu.isas[0]:
        return None
    if isa is Isa.PLAIN:
        return "x86-64" if cpu.architecture == "x86_64" else "generic"
    return next(target.llvm_cpu for target in _TARGETS if target.isa is isa)


def available_isas(architecture: str, features: frozenset[str]) -> tuple[Isa, ...]:
    """Return the instruction sets a processor with these LLVM features can run, best first."""
    return tuple(
        target.isa
        for target in _TARGETS
        if target.isa is Isa.PLAIN or (target.architecture == architecture and target.needs <= features)
    )


def choose_isa(wanted: str, isas: tuple[Isa, ...]) -> Isa:
    """Return the instruction set named `wanted` (empty: the best of `isas`).

    Raises `UnsupportedCpuError` for a name that is unknown or not in `isas`.
    """
    if not wanted:
        return isas[0]
    possible = ", ".join(isa.value for isa in isas)
    try:
        isa = Isa(wanted.strip().lower())
    except ValueError:
        valid = ", ".join(known.value for known in Isa)
        raise UnsupportedCpuError(
            f"{ISA_VARIABLE}={wanted!r} is no instruction set known here. Valid names: {valid}. "
            f"This processor can run: {possible}."
        ) from None
    if isa not in isas:
        raise UnsupportedCpuError(
            f"{ISA_VARIABLE}={wanted!r} cannot run on this processor, which can run: {possible}. "
            f"Unset {ISA_VARIABLE} to use the best of them."
        )
    return isa


def combine(host: Host, limits: CgroupLimits, architecture: str, features: frozenset[str], wanted: str) -> Cpu:
    """Combine the facts into a `Cpu`. A pure function, so that tests can describe any machine."""
    isas = available_isas(architecture, features)
    quota = limits.cpu_quota
    cores = host.allowed_cpus if quota is None else max(1, min(host.allowed_cpus, int(quota)))
    memory = [m for m in (host.memory_bytes, limits.memory_bytes) if m is not None]
    return Cpu(
        model_name=host.model_name,
        architecture=architecture,
        features=features,
        isas=isas,
        isa=choose_isa(wanted, isas),
        cores=cores,
        physical_cores=host.physical_cores,
        allowed_cpus=host.allowed_cpus,
        cpu_quota=quota,
        caches=host.caches,
        memory_bytes=min(memory, default=None),
    )


@functools.cache
def _probe(wanted: str, bound: int | None) -> Cpu:
    architecture = normalize_architecture(platform.machine())
    name, features = _llvm_host()
    host = read_host()
    limits = read_limits() if sys.platform == "linux" else CgroupLimits(None, None)
    cpu = combine(host, limits, architecture, features, wanted)
    if bound is not None:
        cpu = replace(cpu, memory_bytes=min(bound, cpu.memory_bytes or bound))
    return cpu if cpu.model_name else replace(cpu, model_name=name or architecture)


def normalize_architecture(machine: str) -> str:
    """Return one name for what systems call ``AMD64`` or ``x86_64``, ``arm64`` or ``aarch64``."""
    name = machine.lower()
    return {"amd64": "x86_64", "x64": "x86_64", "arm64": "aarch64"}.get(name, name)


def _llvm_host() -> tuple[str, frozenset[str]]:
    """Return LLVM's name of the host processor and its features."""
    from llvmlite import binding  # noqa: PLC0415  (loads LLVM, 50 ms)

    try:
        flags: Mapping[str, bool] = binding.get_host_cpu_features()
    except RuntimeError:  # LLVM cannot tell on this system
        flags = {}
    features = {name for name, present in flags.items() if present}
    if sys.platform == "darwin" and sysctl("hw.optional.arm.FEAT_DotProd") == "1":
        features.add("dotprod")  # older LLVM releases report no features on Apple processors
    return binding.get_host_cpu_name(), frozenset(features)
