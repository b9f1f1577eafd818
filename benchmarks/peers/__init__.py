"""Other engines on the same model file, installed and measured in turns."""
