"""Decoding of speech: rules about timestamps, attempts at several temperatures, and the search of a window's text."""
