"""Question answering by meaning: the encoders, and the decision on a calibrated score."""
