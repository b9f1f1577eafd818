"""Routes over documents: indexes, search, grounded answers, customer support."""
