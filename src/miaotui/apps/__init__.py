"""Applications of a model: question answering over documents, customer service.

Owns the way from a question to evidence, a short prompt and a checked answer. Knows neither HTTP nor how a model
runs: generation is handed in, as pieces of text. Invariant: an answer says where it comes from, or that the documents
do not say.
"""
