"""Tokens of speech recognition: special tokens, languages, and the tokenizer of Whisper's text."""
