"""Tenants: whose keys, models, indexes and limits belong together."""
