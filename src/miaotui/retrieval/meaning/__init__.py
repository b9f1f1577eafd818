"""Search by meaning: vectors of sentences beside the words of an index."""
