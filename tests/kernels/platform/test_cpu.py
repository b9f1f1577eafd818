from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from miaotui.errors import UnsupportedCpuError
from miaotui.kernels.platform.cgroup import CgroupLimits, read_limits
from miaotui.kernels.platform.cpu import (
    Cpu,
    Isa,
    available_isas,
    choose_isa,
    combine,
    llvm_cpu_name,
    normalize_architecture,
    probe,
)
from miaotui.kernels.platform.host import Caches, Host, read_linux, read_windows_table

AVX2 = frozenset({"avx2", "fma", "f16c"})
ICE_LAKE = AVX2 | {"avx512f", "avx512bw", "avx512vl", "avx512vnni"}
NO_LIMITS = CgroupLimits(None, None)
GIB = 1 << 30


def plant(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def host(allowed: int = 8, physical: int = 4, memory: int | None = 16 * GIB) -> Host:
    return Host("Test CPU", allowed, physical, Caches(32768, 1 << 20, None), memory)


def cpu_of(features: frozenset[str], architecture: str = "x86_64", wanted: str = "") -> Cpu:
    return combine(host(), NO_LIMITS, architecture, features, wanted)


@pytest.mark.parametrize(
    ("architecture", "features", "best"),
    [
        ("x86_64", ICE_LAKE, Isa.AVX512_VNNI),
        ("x86_64", ICE_LAKE - {"avx512vl"}, Isa.AVX2),
        ("x86_64", ICE_LAKE - {"avx512vl"} | {"avxvnni"}, Isa.AVX_VNNI),
        ("x86_64", AVX2, Isa.AVX2),
        ("x86_64", AVX2 - {"f16c"}, Isa.PLAIN),
        ("x86_64", frozenset({"dotprod"}), Isa.PLAIN),
        ("aarch64", frozenset({"neon", "dotprod"}), Isa.NEON_DOTPROD),
        ("aarch64", frozenset({"neon"}), Isa.PLAIN),
        ("riscv64", frozenset(), Isa.PLAIN),
    ],
)
def test_best_instruction_set(architecture: str, features: frozenset[str], best: Isa) -> None:
    isas = available_isas(architecture, features)
    assert isas[0] is best
    assert isas[-1] is Isa.PLAIN
    assert cpu_of(features, architecture).isa is best


def test_forced_instruction_set_is_used() -> None:
    cpu = cpu_of(ICE_LAKE, wanted="AVX2 ")
    assert cpu.isa is Isa.AVX2
    assert cpu.isas == (Isa.AVX512_VNNI, Isa.AVX2, Isa.PLAIN)


def test_forcing_what_the_host_lacks_names_what_it_has() -> None:
    with pytest.raises(UnsupportedCpuError, match="can run: avx2, plain") as caught:
        choose_isa("avx512vnni", (Isa.AVX2, Isa.PLAIN))
    assert "Unset MIAOTUI_ISA" in str(caught.value)


def test_forcing_nonsense_names_all() -> None:
    with pytest.raises(UnsupportedCpuError) as caught:
        choose_isa("mmx", (Isa.PLAIN,))
    assert all(isa.value in str(caught.value) for isa in Isa)


@pytest.mark.parametrize(
    ("features", "architecture", "isa", "name"),
    [
        (ICE_LAKE, "x86_64", Isa.AVX512_VNNI, None),
        (ICE_LAKE, "x86_64", Isa.AVX2, "haswell"),
        (ICE_LAKE | {"avxvnni"}, "x86_64", Isa.AVX_VNNI, "alderlake"),
        (AVX2, "x86_64", Isa.AVX2, None),
        (AVX2, "x86_64", Isa.PLAIN, "x86-64"),
        (frozenset({"dotprod"}), "aarch64", Isa.NEON_DOTPROD, None),
        (frozenset({"dotprod"}), "aarch64", Isa.PLAIN, "generic"),
        (frozenset(), "riscv64", Isa.PLAIN, None),
    ],
)
def test_llvm_cpu_name(features: frozenset[str], architecture: str, isa: Isa, name: str | None) -> None:
    assert llvm_cpu_name(isa, cpu_of(features, architecture)) == name


@pytest.mark.parametrize(
    ("quota", "cores", "team"), [(None, 8, 4), (100.0, 8, 4), (6.5, 6, 4), (3.99, 3, 3), (0.2, 1, 1)]
)
def test_cores_and_team_size(quota: float | None, cores: int, team: int) -> None:
    cpu = combine(host(), CgroupLimits(quota, None), "x86_64", AVX2, "")
    assert (cpu.cores, cpu.team_size) == (cores, team)


@pytest.mark.parametrize(
    ("physical", "limit", "expected"), [(16, 4, 4), (16, 64, 16), (None, 4, 4), (16, None, 16), (None, None, None)]
)
def test_memory_is_the_lesser(physical: int | None, limit: int | None, expected: int | None) -> None:
    assert combine(host(memory=physical), CgroupLimits(None, limit), "x86_64", AVX2, "").memory_bytes == expected


# --- cgroups --------------------------------------------------------------------------------------

V2_MOUNT = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"


def test_v2_takes_the_tightest_of_the_nested_groups(tmp_path: Path) -> None:
    plant(
        tmp_path,
        {
            "proc/self/cgroup": "0::/a/b/c\n",
            "proc/self/mountinfo": "20 1 8:1 / / rw - ext4 /dev/sda rw\n" + V2_MOUNT,
            "sys/fs/cgroup/a/cpu.max": "150000 100000\n",
            "sys/fs/cgroup/a/memory.max": "max\n",
            "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
            "sys/fs/cgroup/a/b/memory.max": f"{2 * GIB}\n",
            "sys/fs/cgroup/a/b/c/cpu.max": "400000 100000\n",
            "sys/fs/cgroup/a/b/c/memory.max": f"{3 * GIB}\n",
            "sys/fs/cgroup/other/cpu.max": "1000 100000\n",
        },
    )
    assert read_limits(tmp_path) == CgroupLimits(1.5, 2 * GIB)


def test_v1_with_separate_hierarchies(tmp_path: Path) -> None:
    plant(
        tmp_path,
        {
            "proc/self/cgroup": "5:memory:/m\n4:cpu,cpuacct:/x/y\n1:name=systemd:/\n0::/\n",
            "proc/self/mountinfo": (
                "31 2 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
                "32 2 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
                "41 2 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
            ),
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu,cpuacct/x/y/cpu.cfs_quota_us": "50000\n",
            "sys/fs/cgroup/cpu,cpuacct/x/y/cpu.cfs_period_us": "25000\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/memory/m/memory.limit_in_bytes": f"{GIB}\n",
        },
    )
    assert read_limits(tmp_path) == CgroupLimits(2.0, GIB)


def test_container_that_sees_only_its_subtree(tmp_path: Path) -> None:
    plant(
        tmp_path,
        {
            "proc/self/cgroup": "4:cpu:/docker/abc/inner\n",
            "proc/self/mountinfo": ("31 2 0:29 /docker/abc /sys/fs/my\\040cgroup rw - cgroup cgroup rw,cpu\n"),
            "sys/fs/my cgroup/cpu.cfs_quota_us": "300000\n",
            "sys/fs/my cgroup/cpu.cfs_period_us": "100000\n",
            "sys/fs/my cgroup/inner/cpu.cfs_quota_us": "100000\n",
            "sys/fs/my cgroup/inner/cpu.cfs_period_us": "100000\n",
        },
    )
    assert read_limits(tmp_path).cpu_quota == 1.0


@pytest.mark.parametrize("path", ["/../../elsewhere", "/kubepods/pod7"])
def test_group_outside_the_mount_falls_back_to_its_top(tmp_path: Path, path: str) -> None:
    plant(
        tmp_path,
        {
            "proc/self/cgroup": f"0::{path}\n",
            "proc/self/mountinfo": V2_MOUNT.replace(" / /sys", " /docker/abc /sys"),
            "sys/fs/cgroup/cpu.max": "200000 100000\n",
        },
    )
    assert read_limits(tmp_path).cpu_quota == 2.0


@pytest.mark.parametrize("text", ["", "garbage", "0 100000", "5 0", "-5 7", "max", "1e9 3"])
def test_unreadable_quota_is_no_limit(tmp_path: Path, text: str) -> None:
    plant(
        tmp_path,
        {
            "proc/self/cgroup": "0::/\nnonsense\n",
            "proc/self/mountinfo": "short - line\n" + V2_MOUNT,
            "sys/fs/cgroup/cpu.max": text,
        },
    )
    assert read_limits(tmp_path) == NO_LIMITS


def test_system_without_cgroups(tmp_path: Path) -> None:
    assert read_limits(tmp_path) == NO_LIMITS


# --- procfs and sysfs -----------------------------------------------------------------------------


def test_linux_topology_caches_and_memory(tmp_path: Path) -> None:
    files = {
        "proc/cpuinfo": "processor\t: 0\nmodel name\t: Fast  CPU @ 3 GHz \nmodel name\t: other\n",
        "proc/meminfo": "MemTotal:       16384 kB\nMemFree: 1 kB\n",
    }
    base = "sys/devices/system/cpu"
    for cpu in range(4):
        files[f"{base}/cpu{cpu}/topology/thread_siblings_list"] = f"{cpu % 2},{cpu % 2 + 2}\n"
    for index, (level, kind, size) in enumerate(
        [(1, "Data", "48K"), (1, "Instruction", "32K"), (2, "Unified", "2M"), (3, "Unified", "36864K")]
    ):
        for name, value in (("level", level), ("type", kind), ("size", size)):
            files[f"{base}/cpu1/cache/index{index}/{name}"] = f"{value}\n"
    found = read_linux(plant(tmp_path, files), {1, 2, 3})
    assert found == Host("Fast  CPU @ 3 GHz", 3, 2, Caches(48 << 10, 2 << 20, 36864 << 10), 16384 * 1024)


def test_bare_linux_has_guesses_and_nones(tmp_path: Path) -> None:
    assert read_linux(tmp_path, {0, 5}) == Host("", 2, 2, Caches(), None)


def test_windows_table() -> None:
    def core(mask: int) -> bytes:
        return struct.pack("<QI4x16x", mask, 0)

    def cache(mask: int, level: int, size: int, kind: int) -> bytes:
        return struct.pack("<QI4xBBHII4x", mask, 2, level, 8, 64, size, kind)

    table = core(0b0011) + core(0b1100) + cache(0b0011, 1, 32768, 2) + cache(0b0011, 1, 65536, 1)
    table += cache(0b1111, 3, 8 << 20, 0) + b"trailing"
    found = read_windows_table(table, 0b0111, 4 * GIB)
    assert (found.allowed_cpus, found.physical_cores) == (3, 2)
    assert found.caches == Caches(32768, None, 8 << 20)
    assert found.memory_bytes == 4 * GIB


# --- this machine ---------------------------------------------------------------------------------


def test_probe_of_this_machine() -> None:
    cpu = probe()
    assert cpu is probe()
    assert cpu.model_name
    assert cpu.isa in cpu.isas
    assert 1 <= cpu.team_size <= cpu.cores <= cpu.allowed_cpus
    assert cpu.memory_bytes is None or cpu.memory_bytes > 1 << 26


@pytest.mark.parametrize(
    ("machine", "name"), [("AMD64", "x86_64"), ("x86_64", "x86_64"), ("arm64", "aarch64"), ("riscv64", "riscv64")]
)
def test_architecture_names(machine: str, name: str) -> None:
    assert normalize_architecture(machine) == name


def test_environment_forces_plain_and_numba_stays_out() -> None:
    code = (
        "import sys; from miaotui.kernels.platform.cpu import probe;"
        "print(probe().isa.value, 'numba' in sys.modules, 'numpy' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "MIAOTUI_ISA": "plain"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["plain", "False", "False"]
