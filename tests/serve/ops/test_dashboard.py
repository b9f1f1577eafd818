"""The Grafana dashboard as Grafana's own library of its types reads it: every field known, none lost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.cog import encoder, plugins
from grafana_foundation_sdk.models.dashboard import Dashboard, RowPanel

DASHBOARD = Path(__file__).parents[3] / "deploy" / "grafana" / "miaotui.json"


def test_grafana_s_types_hold_the_whole_dashboard() -> None:
    plugins.register_default_plugins()
    written = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    board = Dashboard.from_json(written)
    read = json.loads(encoder.JSONEncoder().encode(board))
    assert list(lost(written, read)) == []
    panels = [panel for panel in board.panels or [] if not isinstance(panel, RowPanel)]
    assert len(panels) >= 20
    for panel in panels:
        assert panel.datasource is not None, panel.title
        assert type(panel.targets[0]).__module__.endswith(".prometheus"), panel.title


def lost(written: Any, read: Any, path: str = "") -> Iterator[str]:
    """Where what was read differs from what was written."""
    if isinstance(written, dict) and isinstance(read, dict):
        for key, value in written.items():
            yield from lost(value, read.get(key), f"{path}/{key}")
    elif isinstance(written, list) and isinstance(read, list) and len(written) == len(read):
        for index, (one, other) in enumerate(zip(written, read, strict=True)):
            yield from lost(one, other, f"{path}/{index}")
    elif written != read:
        yield f"{path}: {written!r} became {read!r}"
