"""Batches of requests from a file, answered by the routes of a server without a socket."""
