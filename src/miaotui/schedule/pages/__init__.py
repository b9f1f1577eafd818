"""Pages of the KV cache: the pool, block tables of sequences, reuse of prefixes."""
