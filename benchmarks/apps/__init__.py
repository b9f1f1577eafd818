"""Question answering and dialogue: right answers, time, weights of spans."""
