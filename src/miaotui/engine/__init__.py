"""From submitted requests to tokens.

`Engine` plans with the scheduler, runs with the runner, samples, and ends answers.
"""
