"""Choice of a replica for each request: numbers only, without clock, thread or Ray."""
