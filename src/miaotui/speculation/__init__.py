"""Speculative decoding: drafters propose tokens, a policy decides which of them are worth a row of the next pass."""
