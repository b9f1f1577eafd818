"""Entries of architectures, by family; those of plain decoders are in `reading.families`."""
