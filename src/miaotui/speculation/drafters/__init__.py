"""Drafters: sources of proposed tokens."""
