"""Speech recognition beside faster-whisper."""
