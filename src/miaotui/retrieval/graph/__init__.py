"""Knowledge graphs: triples, names, relations in words, paths, answers with their proof, and predicted links."""

from __future__ import annotations

from miaotui.retrieval.graph.answers import GraphAnswer, GraphReader
from miaotui.retrieval.graph.store import KnowledgeGraph
from miaotui.retrieval.graph.triples import Triple, read_triples

__all__ = ["GraphAnswer", "GraphReader", "KnowledgeGraph", "Triple", "read_triples"]
