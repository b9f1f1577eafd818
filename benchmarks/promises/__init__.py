"""Deadlines: answers in time under load, promises given and kept."""
