"""Position encodings and windows of attention, as model files declare them."""
