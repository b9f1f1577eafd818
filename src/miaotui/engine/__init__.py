"""From submitted requests to tokens.

`Engine` plans with the scheduler, runs with a backend, samples, and ends answers.
"""
