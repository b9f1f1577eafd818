"""Speculative decoding: drafters propose tokens, the controller decides which of them are worth a row."""
