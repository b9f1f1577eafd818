"""Encryption at rest: master keys, sealed files, sealed cells of databases."""
