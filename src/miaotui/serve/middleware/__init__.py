"""Layers around the routes: accounting, authentication, quotas, request bodies."""
