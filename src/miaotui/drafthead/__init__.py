"""A draft head: a small recurrent network that goes on from the model's own last hidden state, and
so guesses tokens that no text has shown before.
"""
