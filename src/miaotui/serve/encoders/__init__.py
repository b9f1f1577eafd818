"""Encoders behind the server, for all wire forms: which there are, loading and putting away, one request's way."""
