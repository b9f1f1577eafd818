"""Tasks on public sets: labels, decisions, extraction, summaries, recommendations, graphs."""
