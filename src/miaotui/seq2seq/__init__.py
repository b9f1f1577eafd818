"""Encoder-decoders for Python: `Seq2Seq` for threads, `AsyncSeq2Seq` for event loops, and what both share."""
