"""Speech recognition for Python: options and transcripts, sound as samples, windows of a recording, the models."""
