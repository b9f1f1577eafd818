"""Runs every kernel emitter on an emulated 64-bit ARM processor and here, and compares all bits.

No Numba takes part: LLVM compiles the emitters for both; a C program written here makes the calls
over there. Usage: ``python compare.py COMPILER EMULATOR`` (see run.sh).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "kernels")]

from arena import Arena, Place, driver, first_difference, run_here  # noqa: E402
from emitted import Target, compiled_here, object_code  # noqa: E402
from operations import arena, functions  # noqa: E402

from miaotui.kernels.platform.cpu import Isa, probe  # noqa: E402

TRIPLE = "aarch64-unknown-linux-gnu"
TARGETS = (
    (Target(Isa.NEON_DOTPROD, TRIPLE, "neoverse-n1"), "neoverse-n1"),
    (Target(Isa.PLAIN, TRIPLE, "generic"), "cortex-a53"),
)


def run_there(calls: Arena, target: Target, cpu: str, compiler: str, emulator: str) -> NDArray[np.uint8]:
    """The memory after the calls on the emulated processor ``cpu``."""
    emitters = functions(target.isa)
    signatures = {name: letters for name, (_, letters) in emitters.items()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "kernels.o").write_bytes(object_code(emitters, target))
        (folder / "driver.c").write_text(driver(calls, signatures))
        calls.image().tofile(folder / "image")
        build = [compiler, "-O1", "-static", "-o", "program", "driver.c", "kernels.o", "-lm"]
        subprocess.run(build, cwd=folder, check=True)
        command = [emulator, "-cpu", cpu, "program", "image", "result"]
        subprocess.run(command, cwd=folder, check=True)
        return np.fromfile(folder / "result", np.uint8)


def blame(calls: Arena, offset: int) -> str:
    """The last call that names the part of memory in which ``offset`` lies."""
    starts = [
        (argument.offset, number)
        for number, call in enumerate(calls.calls)
        for argument in call.arguments
        if isinstance(argument, Place) and argument.offset <= offset
    ]
    call = calls.calls[max(starts)[1]]
    return f"{call.function}{call.arguments}"


def main() -> int:
    compiler, emulator = sys.argv[1:]
    calls, isa = arena(), probe().isa
    expected = run_here(calls, compiled_here(functions(isa), Target(isa)))
    failures = 0
    for target, cpu in TARGETS:
        start = time.perf_counter()
        found = run_there(calls, target, cpu, compiler, emulator)
        at = first_difference(found, expected)
        names = len({call.function for call in calls.calls})
        verdict = "all bits equal" if at is None else f"differs at byte {at}: {blame(calls, at)}"
        print(
            f"{target.isa.value} on {cpu} and {isa.value} here: {len(calls.calls)} calls of {names} "
            f"functions, {calls.size} bytes: {verdict} ({time.perf_counter() - start:.1f} s)"
        )
        failures += at is not None
    return failures


if __name__ == "__main__":
    sys.exit(main())
