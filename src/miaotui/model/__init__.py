"""Models: configurations, tensors, packed weights, and a slow forward pass that defines their meaning.

Knows dimensions, tensor names and the order of operations. Knows nothing of threads or requests.
"""
