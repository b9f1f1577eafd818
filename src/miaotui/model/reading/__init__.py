"""From model files to one configuration and one set of tensor names."""
