"""Load: arrivals, prompts, targets, what came of each request, and what follows from all of them."""
