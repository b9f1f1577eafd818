"""Runs a fuzz target with libFuzzer's options and bounds of memory and time; finds the modules that tests share."""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import atheris

TESTS = Path(__file__).parents[1]
SHARED = (".", "made_models", "made_files", "hub", "hub/formats")
sys.path[:0] = [str(TESTS / name) for name in SHARED]


def fuzz(
    test_one_input: Callable[[bytes], None], seeds: Iterable[bytes], memory_mib: int = 512, seconds_per_input: int = 5
) -> None:
    """Fuzz until the options say stop, starting from the seeds."""
    warnings.simplefilter("ignore", RuntimeWarning)  # scales of random bits overflow
    with tempfile.TemporaryDirectory() as corpus:
        for number, content in enumerate(seeds):
            Path(corpus, f"seed-{number}").write_bytes(content)
        limits = [f"-rss_limit_mb={memory_mib}", f"-timeout={seconds_per_input}"]
        atheris.Setup([sys.argv[0], *limits, *sys.argv[1:], corpus], test_one_input)
        atheris.Fuzz()
