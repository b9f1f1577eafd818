"""The server: HTTP in OpenAI's and Anthropic's forms, on top of the engine."""
