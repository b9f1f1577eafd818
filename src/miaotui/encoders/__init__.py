"""Tasks of encoders: from the arguments of a call to a job of the loop, and back to typed results."""
