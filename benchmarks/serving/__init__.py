"""The server: clients that vanish, HTTP, cluster, console, scores of prompts."""
