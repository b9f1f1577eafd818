"""Typed questions about an input, answered from a chat model's logits and from likeness to the options."""
