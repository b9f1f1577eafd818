"""Files of speech models: whisper.cpp's form of Whisper."""
