"""Puts the folders whose modules tests share (`tiny_models` and its like) on the import path, and keeps what tests
compile and pack in the repository's own cache. Downloaded models stay the user's.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from miaotui.config import Settings
from miaotui.kernels.platform.cpu import probe
from warm_kernels import warm_kernels

HERE = Path(__file__).parent
SHARED = (
    *("made_models", "made_files"),
    *("cluster", "engine", "hub", "kernels", "optimize", "retrieval", "serve", "text"),
)
MOST_PROCESSES = 8  # each opens models and imports everything


def keep_house() -> None:
    """Make ``.cache/tests`` the home of all that the tests start, unless one is named."""
    if os.environ.get("MIAOTUI_HOME"):
        return
    home = HERE.parent / ".cache" / "tests"
    home.mkdir(parents=True, exist_ok=True)
    models = home / "models"
    with contextlib.suppress(OSError):  # no links here: models are fetched again
        if not models.exists():
            models.symlink_to(Settings.from_env().folder("models"), target_is_directory=True)
    os.environ["MIAOTUI_HOME"] = str(home)


# A busy machine is slow, and no test is about how slow.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")
sys.path[:0] = [str(HERE), *(str(HERE / name) for name in SHARED)]
keep_house()
# Products of tiny matrices gain nothing from threads that spin for one another on a busy machine.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# A shell has interrupts ignored in what it runs in the background, and children would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Collecting makes a million objects and hardly any garbage.
gc.disable()
gc.set_threshold(5000, 10, 10)


def pytest_collection_finish() -> None:
    """What collecting made lives until the end; the collector need not look at it again and again."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One process more than processors, for the times in which tests wait."""
    return min(probe().cores, MOST_PROCESSES) + 1


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Where several processes will run the tests, the first of all compiles what they share."""
    config = session.config
    processes = config.getoption("numprocesses", None)
    if processes and not hasattr(config, "workerinput") and not config.option.collectonly:
        warm_kernels(min(processes, probe().cores))
