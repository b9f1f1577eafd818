"""Dynamic masked language models: masks as data, decoding in parallel, and training."""
