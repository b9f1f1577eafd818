"""Folders of the repository that several benchmarks need."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / "benchmarks" / ".peers"  # engines to compare with, and model files (git-ignored)
SUBJECTS = ROOT / "benchmarks" / "peers" / "subjects"  # programs that run an engine, by the engine's own Python
TESTS = ROOT / "tests"
