"""Learning on: models that are taught from examples, and small ones that are trained from texts."""
