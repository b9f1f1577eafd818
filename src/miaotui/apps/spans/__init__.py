"""Spans of passages: ranked without a model, selected by one, and the pieces of text that say an answer whole."""
