"""Encoder-decoders behind the server: those served, by name, and the requests that they answer."""
