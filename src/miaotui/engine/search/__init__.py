"""Searches for the likeliest target of an encoder-decoder: greedy and by beams; pure functions of logits."""
