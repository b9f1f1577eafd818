"""Recommendation: learned from who took what, from items' texts, and from intents in words."""

from __future__ import annotations

from miaotui.tasks.recommend.recommender import Recommender
from miaotui.tasks.recommend.result import Recommendation, Recommendations

__all__ = ["Recommendation", "Recommendations", "Recommender"]
