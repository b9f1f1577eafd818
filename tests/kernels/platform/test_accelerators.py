"""Devices are read from the bus, and none is named that is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from miaotui.cli.advice.backends import backend_choices
from miaotui.kernels.platform.accelerators import Accelerator, read_accelerators

BUS = {  # address: vendor, device, class
    "0000:00:02.0": ("0x8086", "0x7d55", "0x030000"),
    "0000:00:03.0": ("0x1234", "0x1111", "0x030000"),  # a virtual screen
    "0000:00:0b.0": ("0x8086", "0x7d1d", "0x120000"),
    "0000:01:00.0": ("0x10de", "0x2335", "0x030200"),
    "0000:02:00.0": ("0x10de", "0x22a3", "0x068000"),  # a bridge
    "0000:03:00.0": ("0x1ae0", "0x0042", "0x020000"),  # a network card
    "0000:04:00.0": ("0x1002", "damaged", "0x030000"),
}


def test_devices_that_may_compute_are_listed(tmp_path: Path) -> None:
    for address, values in BUS.items():
        folder = tmp_path / "sys/bus/pci/devices" / address
        folder.mkdir(parents=True)
        for name, value in zip(("vendor", "device", "class"), values, strict=True):
            (folder / name).write_text(value + "\n", encoding="ascii")
    assert read_accelerators(tmp_path) == (
        Accelerator("Intel", "gpu", "8086:7d55"),
        Accelerator("Intel", "accelerator", "8086:7d1d"),
        Accelerator("NVIDIA", "gpu", "10de:2335"),
    )
    assert read_accelerators(tmp_path / "nothing") == ()


def test_one_backend_is_the_default_and_nothing_is_proven_unasked() -> None:
    choices = backend_choices(prove=False)
    assert [each.name for each in choices if each.is_default] == ["cpu"]
    assert all(each.levels == {} for each in choices)


@pytest.mark.slow
@pytest.mark.compare
def test_a_proof_says_what_was_done_here() -> None:
    pytest.importorskip("jax", reason="JAX is not installed: pip install 'miaotui[jax]'")
    (jax,) = (each for each in backend_choices(prove=True) if each.name == "jax")
    assert jax.levels == {"cpu": "executed", "cuda": "lowered", "rocm": "lowered", "tpu": "lowered"}
