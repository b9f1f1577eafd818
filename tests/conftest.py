"""Puts this folder on the import path, so that tests share `tiny_models` and its like."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
# Products of tiny matrices gain nothing from threads that spin for one another on a busy machine.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
