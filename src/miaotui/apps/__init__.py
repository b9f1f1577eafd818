"""What people do with a model: question answering over documents, customer service.

Owns how a question becomes evidence, a short prompt and a checked answer. Knows neither HTTP nor how
a model is run: generation is handed in, as pieces of text. Invariant: an answer says where it comes
from, or that the documents do not say.
"""
