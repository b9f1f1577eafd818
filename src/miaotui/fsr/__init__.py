"""Fast sequence retrieval: find the passage, find the answer, guess the next tokens.

Owns the index over documents, the drafts made from text already seen, and the cache of answers
already given. Knows neither HTTP nor the applications. Invariant: nothing here changes what the
model would say; it changes what the model reads and how soon it is done.
"""
