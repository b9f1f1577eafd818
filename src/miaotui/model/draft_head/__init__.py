"""A draft head's weights: their file, packing and rounding. The head is a small recurrent network that continues
from the model's last hidden state and drafts the next tokens."""
