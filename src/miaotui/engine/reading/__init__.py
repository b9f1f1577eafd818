"""Waiting for answers: the readers of a loop, in threads and in tasks of event loops."""
