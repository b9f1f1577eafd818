"""Answers that obey a grammar: sources, bounds, compiled grammars and their state in one answer."""
