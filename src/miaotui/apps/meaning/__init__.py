"""Question answering by meaning: the encoders, the decision on a calibrated score, the chat model's own judgement."""
