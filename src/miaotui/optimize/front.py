"""The front of an optimisation as a page: what each size of file is predicted to lose, and what was measured.

Owns the chart's points. Draws by `bench.html`. Knows no method. Invariant: the page shows the numbers of the card.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from miaotui.bench.html.charts import ChartAxis, ChartSeries, chart
from miaotui.bench.html.page import page
from miaotui.optimize.card import ReportCard
from miaotui.optimize.plan import FileCandidate

Points = Sequence[Mapping[str, Any]]


def front_points(found: Sequence[FileCandidate]) -> list[dict[str, Any]]:
    """Return candidates as points: bytes, predicted loss and speed."""
    return [
        {
            "file_bytes": one.types.file_bytes,
            "mean_kl": one.predicted_kl,
            "tokens_per_s": round(one.cost.tokens_per_s, 2),
        }
        for one in found
    ]


def shape_points(tried: Points) -> list[dict[str, Any]]:
    """Return the shapes that a search tried as points: their counts, measured loss and predicted speed."""
    return [
        {
            "keeps": one["keeps"],
            "mean_kl": one["pruned"]["mean_kl"],
            "tokens_per_s": round(one["predicted"]["tokens_per_s"], 2),
        }
        for one in tried
    ]


def front_page(card: ReportCard) -> str:
    """Return the report of a card, with its front, as one HTML file."""
    front, measured = card.front["predicted"], card.front["measured"]
    loss = chart(
        [
            ChartSeries("predicted", [(one["file_bytes"] / 1e6, one["mean_kl"]) for one in front]),
            ChartSeries("measured", [(one["file_bytes"] / 1e6, one["mean_kl"]) for one in measured], joined=False),
        ],
        ChartAxis("10^6 bytes of the file", from_zero=False),
        ChartAxis("mean divergence, nats"),
    )
    known = [(one["tokens_per_s"], one["mean_kl"]) for one in measured if one["tokens_per_s"]]
    shapes = [(one["tokens_per_s"], one["mean_kl"]) for one in card.front.get("shapes", ())]
    speed = chart(
        [
            ChartSeries("predicted", [(one["tokens_per_s"], one["mean_kl"]) for one in front]),
            ChartSeries("measured", known, joined=False),
            *([ChartSeries("shapes, before rounding", shapes, joined=False)] if shapes else []),
        ],
        ChartAxis("tokens/s, one stream", from_zero=False),
        ChartAxis("mean divergence, nats"),
    )
    about = [f"{card.source['name']} -> {card.file['name']}", *card.notes]
    sections = [("Loss by size", loss), ("Loss by speed", speed)]
    return page(f"miaotui optimize: {card.file['name']}", about, sections, json.dumps(asdict(card)))
