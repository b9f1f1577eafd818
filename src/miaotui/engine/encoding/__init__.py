"""Encoders that run: jobs of whole texts, packed into short passes, with promises of time."""
