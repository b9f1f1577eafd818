"""The way through the code stays as short as it is: counts of files that `make walk` prints."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WALK = "benchmarks.serving.walk"
# Lower a number when the way gets shorter. The bars to reach stand in benchmarks/serving/walk.py.
MOST_FILES = {"token": 14, "token with drafts": 21, "chat": 32, "chat with drafts": 37}


@pytest.mark.slow
@pytest.mark.model
def test_the_way_gets_no_longer() -> None:
    done = subprocess.run(
        [sys.executable, "-m", WALK], cwd=ROOT, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    *report, last = done.stdout.splitlines()
    found = json.loads(last)["files"]
    longer = {name: count for name, count in found.items() if count > MOST_FILES[name]}
    assert not longer, "\n".join(report)
    assert found.keys() == MOST_FILES.keys()
    assert min(found.values()) > 8, "a trace that sees next to nothing is broken"
