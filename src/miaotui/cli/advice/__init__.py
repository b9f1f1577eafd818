"""Facts that the command line shows of models on this machine: estimates, measured speeds, choices."""
