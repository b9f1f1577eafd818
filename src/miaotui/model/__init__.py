"""Architectures as data: what a model file holds, and a slow forward pass that says what it means.

Knows dimensions, tensor names and the order of operations; knows nothing of threads, packed
weights or requests.
"""
